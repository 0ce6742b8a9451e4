r"""K u = f with K = sum_e B_e^T C_e B_e: the elastic cell problem on a voxel grid, for many cells at once.

One voxel is one element of a discretization in :mod:`rlnlib.green`. Conjugate gradients run on the periodic part of
the displacement, preconditioned by the same operator of a homogeneous reference medium, which is diagonal in Fourier
space. The strain returned is the mean over the voxel; for a trilinear cube that is the strain at its centroid.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from tqdm.auto import tqdm

from rlnlib import _checks, elasticity, fast, green, lippmann_schwinger, solvers
from rlnlib.fast import cores
from rlnlib.solvers import Solution, StoppingRule

#: Largest ratio of moduli for which the recurrences run in float32; at 1e5 its rounding stalls them.
_FLOAT32_CONTRAST = 1e3

#: Making the operator of a small grid takes as long as solving one cell with it: those last used are kept.
_kept_operator = functools.lru_cache(maxsize=4)(green.GreenOperator)


def solve_strain(
    stiff,
    contrast: float | None = None,
    poisson: float = 0.3,
    macroscopic_strain=(1, 0, 0, 0, 0, 0),
    discretization: str = "bbar",
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_iterations: int = 2000,
    phases: list[tuple[float, float]] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    progress: bool = False,
    solver: str = "conjugate_gradient",
    reference: tuple[float, float] | None = None,
) -> Solution:
    """Strain and stress of periodic cells under a prescribed macroscopic strain (eqs. 1 and 2).

    The soft phase has Young's modulus 1 and the stiff one ``contrast``; both have the Poisson ratio ``poisson``. For
    any number of phases, pass integer labels in place of ``stiff`` and ``phases=[(young, poisson), ...]`` in place
    of ``contrast``. A cell has converged when ``||residual|| <= max(rtol * ||rhs||, atol)`` for its nodal forces;
    one that has not is named in a RuntimeWarning and in ``Solution.converged``.

    ``solver`` is "conjugate_gradient", or one that iterates the Lippmann-Schwinger equation at the integration points
    (``solvers.ITERATIONS``: "fixed_point", "gradient_descent", "barzilai_borwein", "anderson"), slower and for
    comparison; its residual is y - Phi(y) for the strain y, its rhs the residual of the macroscopic strain.
    ``reference`` is (young, poisson) of the reference medium. ``progress`` shows a bar: cells done, and the iteration
    and largest residual of those under way.

    Shape: stiff (B, N1, N2, N3), bool or 0/1, or (N1, N2, N3) for a batch of one; macroscopic_strain (6,) or (B, 6),
    Mandel order 11, 22, 33, 23, 13, 12 -> :class:`~rlnlib.solvers.Solution` with fields (B, 6, N1, N2, N3).
    Raises ValueError for a wrong shape, label, contrast, Poisson ratio, strain, discretization, dtype, tolerance,
    solver or reference.
    """
    phases = _checks.as_phases(contrast, poisson, phases)
    labels = _checks.as_labels(stiff, len(phases))
    device = torch.device(device) if device is not None else labels.device
    strain = _checks.mandel_vector("macroscopic_strain", macroscopic_strain, batch=len(labels))
    stopping = StoppingRule(rtol, atol, max_iterations)
    _checks.one_of("solver", solver, ("conjugate_gradient", *solvers.ITERATIONS))
    if reference is None:
        choose = _reference_medium if solver == "conjugate_gradient" else elasticity.midpoint_medium
        reference = choose(phases)
    elif len(reference) != 2:
        raise ValueError(f"reference must be (young, poisson) of the reference medium; it is {reference!r}.")
    _checks.floating(dtype)
    chunk, workers = cores.chunking(labels[0].numel(), device)
    make = _kept_operator if chunk > 1 else green.GreenOperator
    operator = make(labels.shape[1:], discretization, *reference, device=device)
    chunk = min(chunk, math.ceil(len(labels) / workers))  # few cells keep all workers busy, too

    def solve(first: int) -> Solution:
        cells = slice(first, first + chunk)
        arguments = labels[cells].to(device), phases, strain[cells].to(device), operator, stopping, watch
        part = _solve_chunk(*arguments) if solver == "conjugate_gradient" else _iterate_chunk(*arguments, solver)
        return part.to(dtype)

    def show(iteration: int, residual: float) -> None:
        bar.set_postfix_str(f"iteration {iteration}, residual {residual:.0e}")

    watch = show if progress else None
    parts = []
    with (
        tqdm(total=len(labels), unit="cell", disable=not progress) as bar,
        cores.one_thread_of_torch(device, torch.get_num_threads()),
    ):
        for part in cores.map_on_cores(solve, range(0, len(labels), chunk), workers):
            parts.append(part)
            bar.update(len(part.converged))
    solution = solvers.concatenate(parts)
    solvers.warn_of_failures(solution, stopping)
    return solution


def effective_stiffness(stiff, contrast=None, poisson=0.3, **options) -> torch.Tensor:
    """Effective stiffness of each cell: the mean stresses of the six unit load cases side by side.

    Shape: (B, N1, N2, N3) -> (B, 6, 6), Mandel. Takes the options of :func:`solve_strain`.
    """
    columns = [
        solve_strain(stiff, contrast, poisson, macroscopic_strain=unit, **options).effective_stress
        for unit in torch.eye(6, dtype=torch.float64)
    ]
    return torch.stack(columns, -1)


class VoxelProblem:
    """K u = f for a batch of cells; see :class:`rlnlib.solvers.LinearProblem`.

    Shape: moduli (B, P, N1, N2, N3): for equal Poisson ratios the factor on the reference stiffness (P = 1), else
    Lame's lambda and mu (P = 2); displacements and forces (B, 3, N1, N2, N3).
    """

    def __init__(self, moduli: torch.Tensor, unit_stiffness: torch.Tensor, operator: green.GreenOperator):
        self.moduli, self.unit_stiffness, self.operator = moduli, unit_stiffness, operator
        self.rhs = torch.empty(0)
        if operator.discretization != "continuous":
            matrices = [green.element_stiffness(operator.discretization, c) for c in unit_stiffness.unbind()]
            if fast.use(moduli.device):
                self._blocks = np.stack([fast.loops.corner_modes(matrix) for matrix in matrices])
            self._matrices = [matrix.to(moduli) for matrix in matrices]

    @classmethod
    def from_labels(cls, labels, phases, macroscopic_strain, operator) -> VoxelProblem:
        """Shape: labels (B, N1, N2, N3) int64, macroscopic_strain (B, 6) float64."""
        if len({nu for _, nu in phases}) == 1:
            table = torch.tensor([[young] for young, _ in phases], dtype=torch.float64)
            unit = elasticity.isotropic_stiffness(1.0, phases[0][1])[None]
        else:
            table = torch.tensor([elasticity.lame_parameters(*phase) for phase in phases], dtype=torch.float64)
            unit = torch.stack([elasticity.stiffness_from_lame(1, 0), elasticity.stiffness_from_lame(0, 1)])
        moduli = table.to(labels.device)[labels].movedim(-1, 1).contiguous()
        problem = cls(moduli.to(operator.dtype), unit, operator)
        # Only what exceeds the cell's smallest modulus makes a force, so that of a homogeneous cell is exactly 0.
        excess = (moduli - moduli.amin((2, 3, 4), keepdim=True)).to(operator.dtype)
        rhs = -problem._uniform_strain_force(excess, macroscopic_strain)
        # Where the forces of neighbouring voxels cancel (a checkerboard), what rounding leaves is 0 too.
        whole = solvers.norm(excess) * (unit @ macroscopic_strain.cpu().mT).norm(dim=(0, 1)).to(rhs)
        problem.rhs = torch.where((solvers.norm(rhs) > 1e-14 * whole).view(-1, 1, 1, 1, 1), rhs, 0)
        return problem

    def apply(self, u: torch.Tensor) -> torch.Tensor:
        """K u."""
        if self.operator.discretization == "continuous":
            strain = self.operator.gradient(u)[:, 0]
            return self.operator.divergence(self.stress(strain)[:, None])
        if fast.use(u.device):
            return fast.loops.nodal_forces(u, self.moduli, self._blocks)
        parts = zip(self._matrices, self.moduli[:, None].unbind(2), strict=True)
        forces = [green.to_corners(green.from_corners(matrix, u), modulus) for matrix, modulus in parts]
        return forces[0] if len(forces) == 1 else forces[0] + forces[1]

    def precondition(self, residual: torch.Tensor) -> torch.Tensor:
        """K_reference^-1 residual."""
        return self.operator.displacement(residual)

    def select(self, keep: torch.Tensor) -> VoxelProblem:
        """The same for some of the cells. Shape: keep (K,) int64."""
        if len(keep) == len(self.moduli):
            return self
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part.moduli, part.rhs = self.moduli[keep], self.rhs[keep]
        return part

    def to(self, dtype: torch.dtype) -> VoxelProblem:
        """The same in another precision."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.operator, other.moduli, other.rhs = self.operator.to(dtype), self.moduli.to(dtype), self.rhs.to(dtype)
        if self.operator.discretization != "continuous":
            other._matrices = [matrix.to(dtype) for matrix in self._matrices]
        return other

    def strain(self, u: torch.Tensor, macroscopic_strain: torch.Tensor) -> torch.Tensor:
        """Voxel mean of the strain. Shape: (B, 3, N...), (B, 6) -> (B, 6, N...)."""
        uniform = macroscopic_strain.to(u)[:, :, None, None, None].expand(-1, -1, *u.shape[2:])
        if self.operator.discretization == "continuous":
            return uniform + self.operator.gradient(u)[:, 0]
        if fast.use(u.device):
            strain = uniform.contiguous()
            fast.loops.mean_strain(u, strain)
            return strain
        mean = green.element_gradient(self.operator.discretization).mean(0).flatten(1).to(u)
        return uniform + green.from_corners(mean, u)

    def stress(self, strain: torch.Tensor) -> torch.Tensor:
        """sigma = C epsilon (eq. 1). Shape: (B, 6, N...) -> (B, 6, N...)."""
        parts = zip(self.unit_stiffness.to(strain), self.moduli[:, None].unbind(2), strict=True)
        stresses = [torch.einsum("nm,bm...->bn...", unit, strain).mul_(modulus) for unit, modulus in parts]
        return stresses[0] if len(stresses) == 1 else stresses[0] + stresses[1]

    def _uniform_strain_force(self, moduli, macroscopic_strain):
        """B^T C applied to a uniform strain. Shape: (B, P, N...), (B, 6) -> (B, 3, N...)."""
        unit_stress = torch.einsum("pnm,bm->pbn", self.unit_stiffness.to(macroscopic_strain), macroscopic_strain)
        unit_stress = unit_stress.to(moduli)
        shape, force = moduli.shape[2:], moduli.new_zeros(len(moduli), 3, *moduli.shape[2:])
        for stress, modulus in zip(unit_stress, moduli[:, None].unbind(2), strict=True):
            if self.operator.discretization == "continuous":
                force = force + self.operator.divergence((stress.view(-1, 6, 1, 1, 1) * modulus)[:, None])
            else:
                mean = green.element_gradient(self.operator.discretization).mean(0).flatten(1).to(moduli)
                corner_forces = (stress @ mean).view(-1, 24, 1, 1, 1).expand(-1, -1, *shape)
                force = force + green.to_corners(corner_forces, modulus)
        return force


def _reference_medium(phases) -> tuple[float, float]:
    """(young, poisson) of the preconditioner: for equal Poisson ratios conjugate gradients do not see the modulus;
    otherwise the midpoint of the Lame parameters."""
    if len({nu for _, nu in phases}) == 1:
        return 1.0, phases[0][1]
    return elasticity.midpoint_medium(phases)


def _solve_chunk(labels, phases, macroscopic_strain, operator, stopping, watch) -> Solution:
    problem = VoxelProblem.from_labels(labels, phases, macroscopic_strain, operator)
    moduli = [young for young, _ in phases]
    work_dtype = torch.float32 if max(moduli) <= _FLOAT32_CONTRAST * min(moduli) else torch.float64
    u, statistics = solvers.conjugate_gradient(problem, stopping, work_dtype, watch)
    strain = problem.strain(u, macroscopic_strain)
    stress = problem.stress(strain)
    return Solution(strain, stress, stress.mean((2, 3, 4)), **vars(statistics))


def _iterate_chunk(labels, phases, macroscopic_strain, operator, stopping, watch, solver) -> Solution:
    equation = lippmann_schwinger.from_green_operator(operator, labels, phases, macroscopic_strain)
    y, statistics = solvers.iterate(equation, solvers.ITERATIONS[solver](equation), stopping, watch)
    table = torch.tensor([elasticity.lame_parameters(*phase) for phase in phases], dtype=torch.float64)
    lam, mu = table.to(y.device)[labels][:, None].unbind(-1)
    strain = y.mean(1)
    stress = 2 * mu * strain
    stress[:, :3] += lam * strain[:, :3].sum(1, keepdim=True)
    return Solution(strain, stress, stress.mean((2, 3, 4)), **vars(statistics))
