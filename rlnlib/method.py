"""How a cell problem is solved: method and load as a user gives them, checked; and the work, in chunks on all cores."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from tqdm.auto import tqdm

from rlnlib import _checks, elasticity, fast, green, solvers
from rlnlib.problem import CellProblem
from rlnlib.solution import Solution, in_units, in_users_units, join, refuse_fields_beyond, warn_of_failures
from rlnlib.solvers import Statistics, StoppingRule

#: Largest ratio of moduli for which mixed precision works in float32; at 1e5 its rounding stalls the recurrences.
_FLOAT32_CONTRAST = 1e3

#: Numbers of a voxel without which there is no solution: strain, stress and displacement.
_NUMBERS = 6 + 6 + 3
#: Voxels of the cells and loads that :func:`effective_columns` gives to one solve.
_TOGETHER = 2**20
#: The tolerance that each precision reaches at every usual contrast.
_RTOL = {"mixed": 1e-8, torch.float64: 1e-8, torch.float32: 1e-5}


@dataclass(frozen=True)
class Method:
    """How to solve a cell problem: the arguments of :func:`rlnlib.solve_strain` of the same names."""

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
        """Raises ValueError for what :func:`rlnlib.solve_strain` refuses."""
        _checks.floating(dtype, ("mixed", torch.float32, torch.float64))
        stopping = StoppingRule(_RTOL[dtype] if rtol is None else rtol, atol, max_iterations)
        _checks.one_of("discretization", discretization, green.DISCRETIZATIONS)
        _checks.one_of("solver", solver, ("conjugate_gradient", *solvers.ITERATIONS))
        reference = None if reference is None else _checks.as_medium(reference)
        return cls(discretization, stopping, dtype, progress, solver, reference)

    @property
    def kept_dtype(self) -> torch.dtype:
        """Of the fields that are returned."""
        return torch.float64 if isinstance(self.dtype, str) else self.dtype

    def work_dtype(self, cell: CellProblem) -> torch.dtype:
        """Of the iteration, by the ratio of the cell's Young's moduli, or eigenvalues of anisotropic stiffnesses."""
        if self.dtype != "mixed" or self.solver != "conjugate_gradient":
            return self.kept_dtype
        moduli = torch.tensor([young for young, _ in cell.phases], dtype=torch.float64)
        if cell.stiffness is not None:
            moduli = torch.linalg.eigvalsh(cell.stiffness)
        return torch.float32 if float(moduli.max() / moduli.min()) <= _FLOAT32_CONTRAST else torch.float64

    def medium(self, cell: CellProblem, modulus: float) -> tuple[float, float]:
        """(young, poisson) of the reference medium, for a cell with moduli in units of ``modulus``."""
        if self.reference is not None:
            return self.reference[0] / modulus, self.reference[1]
        if self.solver == "conjugate_gradient" and cell.has_one_poisson_ratio:
            return 1.0, cell.phases[0][1]  # conjugate gradients do not see the modulus
        return elasticity.midpoint_medium(cell.phases)


def split_load(macroscopic_strain, macroscopic_stress, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tell prescribed strains from prescribed stresses in a mixed load.

    Args:
        macroscopic_strain: (6,) or (B, 6), Mandel; NaN where the stress is prescribed. None: NaN everywhere.
        macroscopic_stress: The same with strain and stress exchanged.
        batch: B.

    Returns:
        Strain and stress, (B, 6) each, with 0 in place of NaN, and (6,) bool, True where the stress is prescribed.

    Raises:
        ValueError: Where a component has both, or neither, or where the cells differ in which components have what.
    """
    given = {"macroscopic_strain": macroscopic_strain, "macroscopic_stress": macroscopic_stress}
    free, values = {}, {}
    for name, value in given.items():
        raw = _checks.as_tensor([math.nan] * 6 if value is None else value, name).to(torch.float64).cpu()
        values[name] = _checks.mandel_vector(name, torch.nan_to_num(raw, nan=0.0, posinf=math.inf), batch)
        free[name] = raw.isnan().reshape(-1, 6)
        if not bool((free[name] == free[name][0]).all()):
            raise ValueError(f"{name} must prescribe the same components in all cells; it has NaN in different ones.")
    of_stress = ~free["macroscopic_stress"][0]
    wrong = torch.nonzero(of_stress != free["macroscopic_strain"][0]).flatten().tolist()
    if wrong:
        names = [("11", "22", "33", "23", "13", "12")[n] for n in wrong]
        raise ValueError(
            f"Each component must have either a macroscopic_strain or a macroscopic_stress, and NaN for the other; the "
            f"components {', '.join(names)} have both or neither."
        )
    return values["macroscopic_strain"], values["macroscopic_stress"], of_stress


def first_strain(macroscopic_strain, macroscopic_stress):
    """The strain that a cell problem begins with: along axis 0 where none is given, or a stress that decides it."""
    given = macroscopic_strain is not None and macroscopic_stress is None
    return macroscopic_strain if given else (1, 0, 0, 0, 0, 0)


def strain_of_mixed_load(
    strain: torch.Tensor,
    stress: torch.Tensor,
    of_stress: torch.Tensor,
    columns: Callable[[torch.Tensor], torch.Tensor],
    mean_stress: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The mean strain of a mixed load, by superposition: C_ss e_s = sigma_s - C_sf e_f.

    Args:
        strain, stress, of_stress: What :func:`split_load` returns.
        columns: Takes the numbers of some components, (S,) int64, to the mean stresses under unit strains of these,
            (B, 6, S).
        mean_stress: Takes a mean strain, (B, 6), to the mean stress, (B, 6).

    Returns:
        (B, 6).
    """
    found, unknown = strain.clone(), torch.nonzero(of_stress).flatten()
    if len(unknown):
        matrix = columns(unknown).double().cpu()[:, unknown]  # (B, S, S)
        if bool((strain != 0).any()):
            stress = stress - mean_stress(strain).double().cpu()
        found[:, unknown] = torch.linalg.solve(matrix, stress[:, unknown])
    return found


def kept_operator(*arguments, **options) -> green.GreenOperator:
    """Make the Green operator of these arguments, or return it if it is one of the eight used last.

    Making the operator of a small grid takes as long as solving one cell with it.
    """
    return _kept(*arguments, fast_parts=fast.use(options.get("device") or "cpu"), **options)


@functools.lru_cache(maxsize=8)
def _kept(*arguments, fast_parts: bool, **options) -> green.GreenOperator:
    return green.GreenOperator(*arguments, **options)


def in_chunks(cell: CellProblem, method: Method, solve: Callable[..., Solution]) -> Solution:
    """Solve chunk by chunk, in units in which moduli, strains and edges are of the order of one.

    Args:
        cell: The problem, in the user's units.
        method: How to solve it.
        solve: Takes the cells of a chunk, the Green operator, the method with the chunk's stopping rule, and whom to
            tell of each iteration (:data:`rlnlib.solvers.Watch`), or None.

    Returns:
        The solution of all cells, in the user's units.

    Raises:
        ValueError: For fields that the dtype cannot hold.
    """
    refuse_fields_beyond(cell, method.kept_dtype)
    device = cell.labels.device
    if device.type == "cpu":  # before the fields are made, as the system ends a process that asks for too much
        least = _NUMBERS * method.kept_dtype.itemsize * cell.labels.numel()
        _checks.memory(f"A solution of {len(cell)} x {cell.shape} voxels", least)
    scaled, units = in_units(cell)
    chunk, workers = fast.cores.chunking(math.prod(cell.shape), device)
    threads = fast.cores.idle(torch.get_num_threads())
    workers = min(workers, threads, max(1, cell.labels.numel() // fast.cores.WORKER_VOXELS))
    # Made once, in the precision of the loop: in float64 it takes up to 48 bytes a voxel.
    work_dtype, medium = method.work_dtype(cell), method.medium(scaled, units.modulus)
    make = kept_operator if chunk > 1 else green.GreenOperator

    def solve_from(first: int) -> Solution:
        cells = slice(first, first + chunk)
        unit = units.strain[cells].to(device)
        if method.solver == "conjugate_gradient":
            unit = unit * units.modulus / units.length  # of nodal forces
        ruled = replace(method, stopping=replace(method.stopping, unit=unit))
        return solve(scaled.part(cells, device), operator, ruled, watch)

    def show(iteration: int, residual: float) -> None:
        bar.set_postfix_str(f"iteration {iteration}, residual {residual:.0e}")

    def done() -> Iterator[Solution]:
        for part in fast.cores.map_on_cores(solve_from, range(0, len(cell), chunk), workers):
            bar.update(len(part.converged))
            yield part

    watch = show if method.progress else None
    with (
        tqdm(total=len(cell), unit="cell", disable=not method.progress) as bar,
        fast.cores.one_thread_of_torch(device, threads),
    ):
        operator = make(
            cell.shape, method.discretization, *medium, dtype=work_dtype, device=device, spacing=scaled.spacing
        )
        chunk = min(chunk, math.ceil(len(cell) / workers))  # few cells keep all workers busy, too
        return in_users_units(join(done(), len(cell)), units)


def effective_columns(
    cell: CellProblem, method: Method, solve: Callable[..., Solution], components: torch.Tensor
) -> torch.Tensor:
    """Columns of the effective stiffness: mean stresses under unit strains of some components, by :func:`in_chunks`.

    Shape: components (S,) int64 -> (B, 6, S).
    """
    strains, loads = torch.eye(6, dtype=torch.float64)[components], len(components)
    jobs = torch.arange(len(cell) * loads)  # all loads of the first cell, then of the second ...
    parts = []
    for some in jobs.split(max(1, _TOGETHER // math.prod(cell.shape))):
        labels = cell.labels[(some // loads).to(cell.labels.device)]
        solution = in_chunks(replace(cell, labels=labels).under(strains[some % loads]), method, solve)
        parts.append((solution.effective_stress, solution.converged, solution.iterations, solution.residual))
    stress, converged, iterations, residual = (
        torch.cat(part).view(len(cell), loads, -1) for part in zip(*parts, strict=True)
    )
    worst = Statistics(converged.all(1)[:, 0], iterations.amax(1)[:, 0], torch.empty(0), residual.amax(1)[:, 0])
    warn_of_failures(worst, method.stopping)
    return stress.mT
