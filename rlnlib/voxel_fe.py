r"""K u = f with K = sum_e B_e^T C_e B_e: the elastic cell problem on a voxel grid, for many cells at once.

One voxel is one element of a discretization (:mod:`rlnlib.discretizations`). Conjugate gradients run on the periodic
part of the displacement, preconditioned by the same operator of a homogeneous reference medium, which is diagonal in
Fourier space. The strain returned is the mean over the voxel; for a trilinear cube that is the strain at its centroid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from tqdm.auto import tqdm

from rlnlib import _checks, elasticity, fast, green, lippmann_schwinger, problem, solvers
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.equilibrium import VoxelProblem, voxel_problem
from rlnlib.problem import CellProblem
from rlnlib.solvers import Solution, Statistics, StoppingRule

__all__ = ["Method", "VoxelProblem", "effective_stiffness", "solve_strain"]

#: Largest ratio of moduli for which mixed precision works in float32; at 1e5 its rounding stalls the recurrences.
_FLOAT32_CONTRAST = 1e3

#: The tolerance that each precision reaches at every usual contrast.
_RTOL = {"mixed": 1e-8, torch.float64: 1e-8, torch.float32: 1e-5}

#: Voxels of the cells and loads that :func:`effective_stiffness` gives to one solve.
_TOGETHER = 2**20


def solve_strain(
    stiff,
    contrast: float | None = None,
    poisson: float = 0.3,
    macroscopic_strain=None,
    discretization: str = "bbar",
    rtol: float | None = None,
    atol: float = 0.0,
    max_iterations: int = 2000,
    phases: list[tuple[float, float]] | None = None,
    dtype: torch.dtype | str = "mixed",
    device: torch.device | str | None = None,
    progress: bool = False,
    solver: str = "conjugate_gradient",
    reference: tuple[float, float] | None = None,
    spacing=(1, 1, 1),
    macroscopic_stress=None,
    integration_points: bool = False,
) -> Solution:
    """Solve div sigma = 0, sigma = C epsilon (eqs. 1 and 2) in periodic cells under a macroscopic strain or stress.

    A cell has converged when ``||residual|| <= max(rtol * ||rhs||, atol)`` for its nodal forces. A cell that has not
    is named in a RuntimeWarning and in ``Solution.converged``.

    Args:
        stiff: (B, N1, N2, N3), bool or 0/1; (N1, N2, N3) for a batch of one. With ``phases``, integer labels.
        contrast: Young's modulus of the stiff phase; that of the soft one is 1.
        poisson: Poisson ratio of both.
        macroscopic_strain: Mean strain, (6,) or (B, 6), Mandel order 11, 22, 33, 23, 13, 12; by default 1 in 11 and 0
            else.
        discretization: "bbar", "hex8", "rotated" or "continuous".
        rtol: Relative tolerance; by default 1e-8, in float32 1e-5.
        atol: Absolute tolerance.
        max_iterations: The most iterations.
        phases: In place of ``contrast``: for each label (young, poisson) or a stiffness (6, 6), Mandel, in any unit. A
            polycrystal has the label of its grain in each voxel, and ``phases=anisotropy.rotated(crystal, rotations)``.
        dtype: Precision of the work and of the result. "mixed" returns float64 of float64 accuracy, but iterates in
            float32, which takes half the time, where the moduli differ by at most 1000.
        device: Where to work; by default where ``stiff`` is.
        progress: Show a bar: cells done, iteration and largest residual of the cells under way.
        solver: "conjugate_gradient", or one that iterates the Lippmann-Schwinger equation at the integration points
            (``solvers.ITERATIONS``: "fixed_point", "gradient_descent", "barzilai_borwein", "anderson"), slower and
            for comparison. Its residual is y - Phi(y) for the strain y, its rhs the residual of the macroscopic
            strain.
        reference: (young, poisson) of the reference medium, in the unit of ``phases``.
        spacing: Edges of a voxel along the three axes.
        macroscopic_stress: Mean stress, (6,) or (B, 6), NaN where the strain is prescribed; then
            ``macroscopic_strain`` has NaN where the stress is prescribed. A free component has the stress 0. The mean
            strain comes from one solve for each component with a prescribed stress, and one for the others.
        integration_points: Return strain and stress at the integration points, too: eight of them in a voxel for
            "bbar" and "hex8".

    Returns:
        Strain, stress, displacement (fields (B, 6, N1, N2, N3)) and statistics.

    Raises:
        ValueError: For a wrong shape, label, contrast, Poisson ratio, load, discretization, dtype, tolerance, solver,
            reference or spacing.
    """
    load = (1, 0, 0, 0, 0, 0) if macroscopic_strain is None or macroscopic_stress is not None else macroscopic_strain
    cell = problem.cell_problem(stiff, contrast, poisson, load, phases, spacing, device)
    method = Method.checked(discretization, rtol, atol, max_iterations, dtype, progress, solver, reference)
    method = replace(method, integration_points=_checks.boolean("integration_points", integration_points))
    if macroscopic_stress is not None:
        mixed = problem.split_load(macroscopic_strain, macroscopic_stress, len(cell))
        cell = cell.under(_strain_of_mixed_load(cell, method, *mixed))
    solution = _solve(cell, method)
    solvers.warn_of_failures(solution, method.stopping)
    return solution


def effective_stiffness(
    stiff, contrast=None, poisson=0.3, phases=None, device=None, spacing=(1, 1, 1), **options
) -> torch.Tensor:
    """The matrix C_eff of mean stress = C_eff mean strain: the mean stresses of the six unit loads side by side.

    Args:
        stiff: (B, N1, N2, N3), as for :func:`solve_strain`.
        contrast: As for :func:`solve_strain`.
        poisson: As for :func:`solve_strain`.
        phases: As for :func:`solve_strain`.
        device: As for :func:`solve_strain`.
        spacing: As for :func:`solve_strain`.
        **options: ``discretization``, ``rtol``, ``atol``, ``max_iterations``, ``dtype``, ``progress``, ``solver`` and
            ``reference`` of :func:`solve_strain`.

    Returns:
        (B, 6, 6), Mandel.

    Raises:
        ValueError: As for :func:`solve_strain`.
    """
    _checks.known_options("effective_stiffness", options, Method.checked)
    cell = problem.cell_problem(stiff, contrast, poisson, phases=phases, spacing=spacing, device=device)
    return _stiffness_columns(cell, Method.checked(**options), torch.arange(6))


@dataclass(frozen=True)
class Method:
    """How to solve a cell problem: the arguments of :func:`solve_strain` of the same names."""

    discretization: str
    stopping: StoppingRule
    dtype: torch.dtype | str
    progress: bool
    solver: str
    reference: tuple[float, float] | None
    integration_points: bool = False

    @classmethod
    def checked(
        cls, discretization="bbar", rtol=None, atol=0.0, max_iterations=2000, dtype="mixed", progress=False,
        solver="conjugate_gradient", reference=None
    ) -> Method:  # fmt: skip
        """Raises ValueError for what :func:`solve_strain` refuses."""
        _checks.floating(dtype, ("mixed", torch.float32, torch.float64))
        stopping = StoppingRule(_RTOL[dtype] if rtol is None else rtol, atol, max_iterations)
        _checks.one_of("discretization", discretization, green.DISCRETIZATIONS)
        _checks.one_of("solver", solver, ("conjugate_gradient", *solvers.ITERATIONS))
        reference = None if reference is None else problem.as_medium(reference)
        return cls(discretization, stopping, dtype, progress, solver, reference)

    @property
    def kept_dtype(self) -> torch.dtype:
        """Of the fields that are returned."""
        return torch.float64 if isinstance(self.dtype, str) else self.dtype

    def work_dtype(self, contrast: float) -> torch.dtype:
        """Of the iteration."""
        if self.dtype == "mixed" and self.solver == "conjugate_gradient" and contrast <= _FLOAT32_CONTRAST:
            return torch.float32
        return self.kept_dtype

    def medium(self, phases, modulus: float) -> tuple[float, float]:
        """(young, poisson) of the reference medium, for phases with moduli in units of ``modulus``."""
        if self.reference is not None:
            return self.reference[0] / modulus, self.reference[1]
        if self.solver == "conjugate_gradient" and len({nu for _, nu in phases}) == 1:
            return 1.0, phases[0][1]  # conjugate gradients do not see the modulus
        return elasticity.midpoint_medium(phases)


def _stiffness_columns(cell: CellProblem, method: Method, components: torch.Tensor) -> torch.Tensor:
    """Mean stresses under unit strains of some components. Shape: (S,) int64 -> (B, 6, S)."""
    units, loads = torch.eye(6, dtype=torch.float64)[components], len(components)
    jobs = torch.arange(len(cell) * loads)  # all loads of the first cell, then of the second ...
    parts = []
    for some in jobs.split(max(1, _TOGETHER // math.prod(cell.shape))):
        labels = cell.labels[(some // loads).to(cell.labels.device)]
        solution = _solve(replace(cell, labels=labels).under(units[some % loads]), method)
        parts.append((solution.effective_stress, solution.converged, solution.iterations, solution.residual))
    stress, converged, iterations, residual = (
        torch.cat(part).view(len(cell), loads, -1) for part in zip(*parts, strict=True)
    )
    worst = Statistics(converged.all(1)[:, 0], iterations.amax(1)[:, 0], torch.empty(0), residual.amax(1)[:, 0])
    solvers.warn_of_failures(worst, method.stopping)
    return stress.mT


def _strain_of_mixed_load(cell: CellProblem, method: Method, strain, stress, of_stress) -> torch.Tensor:
    """The mean strain of a mixed load, by superposition: C_ss e_s = sigma_s - C_sf e_f.

    Shape: strain and stress (B, 6), of_stress (6,) bool -> (B, 6).
    """
    unknown = torch.nonzero(of_stress).flatten()
    if not len(unknown):
        return strain
    columns = _stiffness_columns(cell, method, unknown).double().cpu()  # (B, 6, S)
    if bool((strain != 0).any()):
        stress = stress - _solve(cell.under(strain), method).effective_stress.double().cpu()
    found = strain.clone()
    found[:, unknown] = torch.linalg.solve(columns[:, unknown], stress[:, unknown])
    return found


def _solve(cell: CellProblem, method: Method) -> Solution:
    """Solve chunk by chunk, in units in which moduli, strains and edges are of the order of one."""
    cell.refuse_fields_beyond(method.kept_dtype)
    device, (scaled, units) = cell.labels.device, cell.in_units()
    chunk, workers = fast.cores.chunking(math.prod(cell.shape), device)
    threads = fast.cores.idle(torch.get_num_threads())
    workers = min(workers, threads)
    # The preconditioner alone needs the operator's inverse, 72 bytes a voxel in float64: once, as the loop takes it.
    work_dtype, medium = method.work_dtype(cell.contrast), method.medium(scaled.phases, units.modulus)
    make = green.kept_operator if chunk > 1 else green.GreenOperator

    def solve(first: int) -> Solution:
        cells = slice(first, first + chunk)
        unit = units.strain[cells].to(device)
        if method.solver == "conjugate_gradient":
            unit = unit * units.modulus
        return _solve_chunk(scaled.part(cells, device), operator, replace(method.stopping, unit=unit), method, watch)

    def show(iteration: int, residual: float) -> None:
        bar.set_postfix_str(f"iteration {iteration}, residual {residual:.0e}")

    watch = show if method.progress else None
    parts = []
    with (
        tqdm(total=len(cell), unit="cell", disable=not method.progress) as bar,
        fast.cores.one_thread_of_torch(device, threads),
    ):
        operator = make(
            cell.shape, method.discretization, *medium, dtype=work_dtype, device=device, spacing=scaled.spacing
        )
        chunk = min(chunk, math.ceil(len(cell) / workers))  # few cells keep all workers busy, too
        for part in fast.cores.map_on_cores(solve, range(0, len(cell), chunk), workers):
            parts.append(part)
            bar.update(len(part.converged))
    return _in_users_units(solvers.concatenate(parts), units)


def _solve_chunk(cell: CellProblem, operator, stopping, method, watch) -> Solution:
    points: dict[str, torch.Tensor] = {}
    if method.solver == "conjugate_gradient":
        equilibrium = voxel_problem(cell, operator, method.kept_dtype)
        with fast.memory.reused(operator.dtype):
            u, statistics = conjugate_gradient(equilibrium, stopping, operator.dtype, watch)
        strain = equilibrium.strain(u, cell.macroscopic_strain)
        if method.integration_points:
            points["strain_at_points"] = equilibrium.strain_at_points(u, cell.macroscopic_strain)
        del equilibrium
    else:
        equation = lippmann_schwinger.from_green_operator(cell, operator)
        y, statistics = solvers.iterate(equation, solvers.ITERATIONS[method.solver](equation), stopping, watch)
        strain = y.mean(1)
        if method.integration_points:
            points["strain_at_points"] = y
        u = operator.displacement(operator.divergence(elasticity.hooke(y, *operator.lame)))
    law = cell.law(strain.dtype)
    stress = law(strain)
    if points:
        points["stress_at_points"] = law(points["strain_at_points"])
    return Solution(strain, stress, stress.mean((2, 3, 4)), u, **vars(statistics), **points)


def _in_users_units(solution: Solution, units: problem.Units) -> Solution:
    """Scale the fields back, in place; no cell with a field that is not finite has converged."""

    def times(field, *factors):
        for factor in factors:
            if not isinstance(factor, float) or factor != 1:
                field.mul_(factor)
        return field

    if bool((units.strain == 1).all()):
        by_cell: tuple = ()
    else:
        by_cell = (solvers.over_cells(units.strain.to(solution.strain), solution.strain),)
    points = {}
    if solution.strain_at_points is not None and solution.stress_at_points is not None:
        by_point = [factor[:, None] for factor in by_cell]
        points["strain_at_points"] = times(solution.strain_at_points, *by_point)
        points["stress_at_points"] = times(solution.stress_at_points, units.modulus, *by_point)
    effective = times(solution.effective_stress, units.modulus, *(factor.view(-1, 1) for factor in by_cell))
    return replace(
        solution,
        strain=times(solution.strain, *by_cell),
        stress=times(solution.stress, units.modulus, *by_cell),
        effective_stress=effective,
        displacement=times(solution.displacement, units.length, *by_cell),
        converged=solution.converged & effective.isfinite().all(1),
        **points,
    )
