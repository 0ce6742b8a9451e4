r"""K u = f with K = sum_e B_e^T C_e B_e: the elastic cell problem on a voxel grid, for many cells at once.

One voxel is one element of a discretization (:mod:`rlnlib.discretizations`). Conjugate gradients run on the periodic
part of the displacement, preconditioned by the same operator of a homogeneous reference medium, which is diagonal in
Fourier space. The strain returned is the mean over the voxel; for a trilinear cube that is the strain at its centroid.
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from rlnlib import _checks, elasticity, fast, green, lippmann_schwinger, problem, solvers
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.problem import CellProblem
from rlnlib.solvers import Solution, StoppingRule

#: Largest ratio of moduli for which mixed precision works in float32; at 1e5 its rounding stalls the recurrences.
_FLOAT32_CONTRAST = 1e3

#: The tolerance that each precision reaches at every usual contrast.
_RTOL = {"mixed": 1e-8, torch.float64: 1e-8, torch.float32: 1e-5}


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
        phases: In place of ``contrast``: (young, poisson) of each label, in any unit.
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

    Returns:
        Strain, stress, displacement (fields (B, 6, N1, N2, N3)) and statistics.

    Raises:
        ValueError: For a wrong shape, label, contrast, Poisson ratio, load, discretization, dtype, tolerance, solver,
            reference or spacing.
    """
    if dtype not in ("mixed", torch.float32, torch.float64):
        raise ValueError(f'dtype must be torch.float32, torch.float64 or "mixed"; it is {dtype!r}.')
    stopping = StoppingRule(_RTOL[dtype] if rtol is None else rtol, atol, max_iterations)
    _checks.one_of("solver", solver, ("conjugate_gradient", *solvers.ITERATIONS))
    load = (1, 0, 0, 0, 0, 0) if macroscopic_strain is None or macroscopic_stress is not None else macroscopic_strain
    cell = problem.cell_problem(stiff, contrast, poisson, load, phases, spacing, device)
    if reference is not None:
        reference = problem.as_medium(reference)

    def solve(macroscopic) -> Solution:
        loaded = replace(cell, macroscopic_strain=macroscopic.to(cell.labels.device))
        solution = _solve(loaded, discretization, stopping, dtype, progress, solver, reference)
        solvers.warn_of_failures(solution, stopping)
        return solution

    if macroscopic_stress is None:
        return solve(cell.macroscopic_strain)
    strain, stress, of_stress = problem.split_load(macroscopic_strain, macroscopic_stress, len(cell))
    return solve(_strain_of_mixed_load(solve, strain, stress, of_stress))


def effective_stiffness(stiff, contrast=None, poisson=0.3, **options) -> torch.Tensor:
    """The matrix C_eff of mean stress = C_eff mean strain: the mean stresses of the six unit loads side by side.

    Args:
        stiff: (B, N1, N2, N3), as for :func:`solve_strain`.
        contrast: As for :func:`solve_strain`.
        poisson: As for :func:`solve_strain`.
        **options: Those of :func:`solve_strain`, but for the load.

    Returns:
        (B, 6, 6), Mandel.
    """
    columns = [
        solve_strain(stiff, contrast, poisson, macroscopic_strain=unit, **options).effective_stress
        for unit in torch.eye(6, dtype=torch.float64)
    ]
    return torch.stack(columns, -1)


def _strain_of_mixed_load(solve, strain, stress, of_stress) -> torch.Tensor:
    """The mean strain of a mixed load, by superposition: C_ss e_s = sigma_s - C_sf e_f.

    Shape: strain and stress (B, 6), of_stress (6,) bool -> (B, 6).
    """
    unknown = torch.nonzero(of_stress).flatten()
    units = torch.eye(6, dtype=torch.float64)[unknown]
    columns = [solve(unit.expand(len(strain), 6)).effective_stress.double().cpu() for unit in units]
    if not columns:
        return strain
    wanted = stress
    if bool((strain != 0).any()):
        wanted = stress - solve(strain).effective_stress.double().cpu()
    matrix = torch.stack(columns, -1)[:, unknown]  # (B, S, S)
    found = strain.clone()
    found[:, unknown] = torch.linalg.solve(matrix, wanted[:, unknown])
    return found


def _reference_medium(phases) -> tuple[float, float]:
    """(young, poisson) of the preconditioner: for equal Poisson ratios conjugate gradients do not see the modulus;
    otherwise the midpoint of the Lame parameters."""
    if len({nu for _, nu in phases}) == 1:
        return 1.0, phases[0][1]
    return elasticity.midpoint_medium(phases)


@functools.lru_cache(maxsize=4)
def _cached_operator(*arguments, fast_parts: bool) -> green.GreenOperator:
    """Making the operator of a small grid takes as long as solving one cell with it: those last used are kept."""
    return green.GreenOperator(*arguments)


def _solve(cell: CellProblem, discretization, stopping, dtype, progress, solver, reference) -> Solution:
    """Solve chunk by chunk, in units in which moduli, strains and edges are of the order of one."""
    device = cell.labels.device
    kept_dtype = torch.float64 if dtype == "mixed" else dtype
    scaled, units = cell.in_units()
    _refuse_loads_beyond(cell, kept_dtype)
    if reference is None:
        choose = _reference_medium if solver == "conjugate_gradient" else elasticity.midpoint_medium
        medium = choose(scaled.phases)
    else:
        medium = reference[0] / units.modulus, reference[1]
    chunk, workers = fast.cores.chunking(math.prod(cell.shape), device)
    # The preconditioner alone needs the operator's inverse, 72 bytes a voxel in float64: once, as the loop takes it.
    is_float32 = dtype == "mixed" and solver == "conjugate_gradient" and cell.contrast <= _FLOAT32_CONTRAST
    work_dtype = torch.float32 if is_float32 else kept_dtype
    arguments = (cell.shape, discretization, *medium, work_dtype, device, scaled.spacing)

    def solve(first: int) -> Solution:
        cells = slice(first, first + chunk)
        strain_unit = units.strain[cells].to(device)
        rule = replace(stopping, unit=strain_unit * units.modulus if solver == "conjugate_gradient" else strain_unit)
        return _solve_chunk(scaled.part(cells, device), operator, rule, kept_dtype, watch, solver)

    def show(iteration: int, residual: float) -> None:
        bar.set_postfix_str(f"iteration {iteration}, residual {residual:.0e}")

    watch = show if progress else None
    parts = []
    with (
        tqdm(total=len(cell), unit="cell", disable=not progress) as bar,
        fast.cores.one_thread_of_torch(device, torch.get_num_threads()),
    ):
        if chunk > 1:
            operator = _cached_operator(*arguments, fast_parts=fast.use(device))
        else:
            operator = green.GreenOperator(*arguments)
        chunk = min(chunk, math.ceil(len(cell) / workers))  # few cells keep all workers busy, too
        for part in fast.cores.map_on_cores(solve, range(0, len(cell), chunk), workers):
            parts.append(part)
            bar.update(len(part.converged))
    return _in_users_units(solvers.concatenate(parts), units)


def _solve_chunk(cell: CellProblem, operator, stopping, dtype, watch, solver) -> Solution:
    if solver == "conjugate_gradient":
        equilibrium = VoxelProblem(cell, operator, dtype)
        u, statistics = conjugate_gradient(equilibrium, stopping, operator.dtype, watch)
        strain = equilibrium.strain(u, cell.macroscopic_strain)
        del equilibrium
    else:
        equation = lippmann_schwinger.from_green_operator(cell, operator)
        y, statistics = solvers.iterate(equation, solvers.ITERATIONS[solver](equation), stopping, watch)
        strain = y.mean(1)
        u = operator.displacement(operator.divergence(elasticity.hooke(y, *operator.lame)))
    lam, mu = cell.lame()
    stress = elasticity.hooke(strain, lam.to(strain), mu.to(strain))
    return Solution(strain, stress, stress.mean((2, 3, 4)), u, **vars(statistics))


def _refuse_loads_beyond(cell: CellProblem, dtype: torch.dtype) -> None:
    """A result that the dtype cannot hold would be infinite, or zero."""
    moduli = [young for young, _ in cell.phases]
    sizes = cell.macroscopic_strain.abs().amax(1)
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return
    low, high = float(sizes.min()), float(sizes.max())
    largest, smallest = torch.finfo(dtype).max / 2**30, torch.finfo(dtype).tiny * 2**30
    if max(high, high * max(moduli)) > largest or min(low, low * min(moduli)) < smallest:
        raise ValueError(
            f"macroscopic_strain of {low:g} to {high:g} with moduli of {min(moduli):g} to {max(moduli):g} gives fields "
            f"beyond the range of {dtype}: take other units, or dtype=torch.float64."
        )


def _in_users_units(solution: Solution, units: problem.Units) -> Solution:
    """Scale the fields back; no cell with a field that is not finite has converged."""

    def times(field, *factors):
        for factor in factors:
            if not isinstance(factor, float) or factor != 1:
                field = field * factor
        return field

    if bool((units.strain == 1).all()):
        by_cell: tuple = ()
    else:
        by_cell = (solvers.over_cells(units.strain.to(solution.strain), solution.strain),)
    effective = times(solution.effective_stress, units.modulus, *(factor.view(-1, 1) for factor in by_cell))
    return replace(
        solution,
        strain=times(solution.strain, *by_cell),
        stress=times(solution.stress, units.modulus, *by_cell),
        effective_stress=effective,
        displacement=times(solution.displacement, units.length, *by_cell),
        converged=solution.converged & effective.isfinite().all(1),
    )


class VoxelProblem:
    """K u = f for a batch of cells; see :class:`rlnlib.conjugate_gradient.LinearProblem`.

    K is sum_p modulus_p K_p: for equal Poisson ratios Young's modulus times the K of unit modulus, else lambda and mu
    times the K of each alone.

    Args:
        cell: Labels, phases and macroscopic strain.
        operator: Discretization, grid and reference medium.
        dtype: Precision of K and f, by default the operator's.
    """

    def __init__(self, cell: CellProblem, operator: green.GreenOperator, dtype: torch.dtype | None = None):
        self.operator, dtype = operator, dtype or operator.dtype
        if cell.has_one_poisson_ratio:
            table = torch.tensor([[young] for young, _ in cell.phases], dtype=torch.float64)
            self.units = [elasticity.lame_parameters(1.0, cell.phases[0][1])]
        else:
            table, self.units = elasticity.lame_table(cell.phases), [(1.0, 0.0), (0.0, 1.0)]
        self.stiffness = operator.discretization.stiffness(self.units)
        moduli = torch.cat([cell.by_voxel(column) for column in table.unbind(1)], 1)  # (B, P, N1, N2, N3)
        self.moduli = moduli.to(dtype)
        self.rhs = self._force(moduli, cell.macroscopic_strain)

    def _force(self, moduli, macroscopic_strain) -> torch.Tensor:
        """f = -B^T C macroscopic strain (eq. 2 for the uniform part). Shape: (B, P, N...), (B, 6) -> (B, 3, N...)."""
        # Only what exceeds the cell's smallest modulus makes a force, so that of a homogeneous cell is exactly 0.
        excess = (moduli - moduli.amin((2, 3, 4), keepdim=True)).to(self.moduli)
        unit = torch.stack([elasticity.stiffness_from_lame(*pair) for pair in self.units]).to(macroscopic_strain.device)
        stress = torch.einsum("pnm,bm->pbn", unit, macroscopic_strain)  # (P, B, 6)
        force = excess.new_zeros(len(excess), 3, *excess.shape[2:])
        for unit_stress, modulus in zip(stress, excess[:, None].unbind(2), strict=True):
            force = force - self.operator.discretization.divergence_of_uniform(unit_stress, modulus)
        # Where the forces of neighbouring voxels cancel (a checkerboard), what rounding leaves is 0 too.
        whole = solvers.norm(excess) * stress.norm(dim=(0, 2)).to(excess)
        rounding = 50 * torch.finfo(force.dtype).eps
        return torch.where(solvers.over_cells(solvers.norm(force) > rounding * whole, force), force, 0)

    def apply(self, u: torch.Tensor) -> torch.Tensor:
        """K u = -div (C B u), the left-hand side of equilibrium (eq. 2)."""
        return self.stiffness(u, self.moduli)

    def precondition(self, residual: torch.Tensor) -> torch.Tensor:
        """K_reference^-1 residual."""
        return self.operator.displacement(residual)

    def select(self, keep: torch.Tensor) -> VoxelProblem:
        """The same for some of the cells. Shape: keep (K,) int64."""
        if len(keep) == len(self.moduli):
            return self
        part = copy.copy(self)
        part.moduli, part.rhs = self.moduli[keep], self.rhs[keep]
        return part

    def to(self, dtype: torch.dtype) -> VoxelProblem:
        """The same in another precision."""
        other = copy.copy(self)
        other.operator, other.moduli, other.rhs = self.operator.to(dtype), self.moduli.to(dtype), self.rhs.to(dtype)
        return other

    def strain(self, u: torch.Tensor, macroscopic_strain: torch.Tensor) -> torch.Tensor:
        """Voxel mean of the strain. Shape: (B, 3, N...), (B, 6) -> (B, 6, N...)."""
        strain = self.operator.discretization.mean_gradient(u)
        return strain.add_(macroscopic_strain.to(u)[:, :, None, None, None])
