r"""K u = f with K = sum_e B_e^T C_e B_e: the linear equations of equilibrium on a voxel grid, without a matrix."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable

import torch

from rlnlib import discretizations, elasticity, engineering, fast, green, solvers
from rlnlib.problem import CellProblem

#: A uniform stress (B, 6), and the modulus of each voxel (B, 1, N1, N2, N3) that multiplies it.
_Source = tuple[torch.Tensor, torch.Tensor]


def voxel_problem(cell: CellProblem, operator: green.GreenOperator, dtype: torch.dtype | None = None) -> VoxelProblem:
    """The equations of a cell problem, by whether all its phases are isotropic."""
    return (VoxelProblem if cell.stiffness is None else AnisotropicVoxelProblem)(cell, operator, dtype)


class VoxelProblem:
    """K u = f for a batch of cells, as :func:`rlnlib.conjugate_gradient.conjugate_gradient` solves it.

    K is sum_p modulus_p K_p: for equal Poisson ratios Young's modulus times the K of modulus 1, else lambda and mu
    times the K of each alone.

    Args:
        cell: Labels, phases and macroscopic strain.
        operator: Discretization, grid and reference medium.
        dtype: Precision of K and f, by default the operator's.
    """

    #: The fields of the cells: what K knows of each voxel, and f.
    by_cell: tuple[str, ...] = ("moduli", "rhs")

    def __init__(self, cell: CellProblem, operator: green.GreenOperator, dtype: torch.dtype | None = None):
        self.operator, dtype = operator, dtype or operator.dtype
        if cell.has_one_poisson_ratio:
            table = torch.tensor([[young] for young, _ in cell.phases], dtype=torch.float64)
            self.basis = [elasticity.lame_parameters(1.0, cell.phases[0][1])]
        else:
            table, self.basis = elasticity.lame_table(cell.phases), [(1.0, 0.0), (0.0, 1.0)]
        self.stiffness_operator = operator.discretization.stiffness_operator(self.basis)
        moduli = torch.cat([cell.by_voxel(column) for column in table.unbind(1)], 1)  # (B, P, N1, N2, N3)
        self.moduli = moduli.to(dtype)
        self.rhs = self._force(self._sources(moduli, cell.macroscopic_strain))

    def _sources(self, moduli, macroscopic_strain) -> Iterable[_Source]:
        """What makes f: the stress of the macroscopic strain as a sum of uniform stresses times moduli."""
        # Only what exceeds the cell's smallest modulus makes a force, so that of a homogeneous cell is exactly 0.
        excess = (moduli - moduli.amin((2, 3, 4), keepdim=True)).to(self.moduli)
        c = torch.stack([elasticity.stiffness_from_lame(*lame) for lame in self.basis])  # (P, 6, 6)
        stress = torch.einsum("pnm,bm->pbn", c.to(macroscopic_strain.device), macroscopic_strain)  # (P, B, 6)
        return zip(stress, excess[:, None].unbind(2), strict=True)

    def _force(self, sources: Iterable[_Source]) -> torch.Tensor:
        """f = -B^T C macroscopic strain (eq. 2 for the uniform part). Shape: -> (B, 3, N...)."""
        force, whole = torch.zeros(()), torch.zeros(())
        for stress, modulus in sources:
            force = force - self.operator.discretization.nodal_forces_of_uniform(stress, modulus)
            whole = whole + solvers.norm(modulus) * stress.norm(dim=1).to(modulus)
        # Where the forces of neighbouring voxels cancel (a checkerboard), what rounding leaves is 0 too.
        rounding = 50 * torch.finfo(force.dtype).eps
        return torch.where(solvers.over_cells(solvers.norm(force) > rounding * whole, force), force, 0)

    def apply(self, u: torch.Tensor) -> torch.Tensor:
        """K u = -div (C B u)."""
        return self.stiffness_operator(u, self.moduli)  # eq. 2, with the sign of B^T = -div

    def precondition(self, residual: torch.Tensor) -> torch.Tensor:
        """K_0^-1 residual, K_0 being the K of the reference medium."""
        return self.operator.displacement(residual)

    def select(self, keep: torch.Tensor) -> VoxelProblem:
        """The same for some of the cells. Shape: keep (K,) int64."""
        return self if len(keep) == len(self.rhs) else self._with(lambda field: field.index_select(0, keep))

    def to(self, dtype: torch.dtype) -> VoxelProblem:
        """The same in another precision."""
        other = self._with(lambda field: field.to(dtype) if field.is_floating_point() else field)  # no labels
        other.operator = self.operator.to(dtype)
        return other

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> VoxelProblem:
        other = copy.copy(self)
        for name in self.by_cell:
            setattr(other, name, change(getattr(self, name)))
        return other

    def strain(self, u: torch.Tensor, macroscopic_strain: torch.Tensor) -> torch.Tensor:
        """Voxel mean of the strain. Shape: (B, 3, N...), (B, 6) -> (B, 6, N...)."""
        strain = self.operator.discretization.mean_gradient(u)
        return strain.add_(macroscopic_strain.to(u)[:, :, None, None, None])

    def strain_at_points(self, u: torch.Tensor, macroscopic_strain: torch.Tensor) -> torch.Tensor:
        """Strain at the integration points. Shape: (B, 3, N...), (B, 6) -> (B, G, 6, N...)."""
        strain = self.operator.gradient(u)
        return strain.add_(macroscopic_strain.to(u)[:, None, :, None, None, None])


class AnisotropicVoxelProblem(VoxelProblem):
    """The same for phases of any stiffness, each voxel's found by its label."""

    by_cell = ("labels", "rhs")

    def __init__(self, cell: CellProblem, operator: green.GreenOperator, dtype: torch.dtype | None = None):
        self.operator, dtype = operator, dtype or operator.dtype
        self.labels = cell.labels.contiguous()
        assert cell.stiffness is not None
        self.stiffness_operator = stiffness_operator_by_label(operator.discretization, cell.stiffness)
        stress = cell.stiffness.to(cell.macroscopic_strain) @ cell.macroscopic_strain.mT  # (P, 6, B)
        self.rhs = self._force(self._sources(stress.permute(2, 1, 0), dtype))

    def _sources(self, stress, dtype):
        """The stress of each label, (B, 6, P): its components times the six stresses of one component."""
        ones = torch.eye(6, dtype=stress.dtype, device=stress.device)
        for component, one in zip(stress.unbind(1), ones, strict=True):
            by_voxel = component.gather(1, self.labels.flatten(1)).view(self.labels.shape)
            # Only what exceeds the stress of one voxel makes a force, so that of a homogeneous cell is exactly 0.
            yield one.expand(len(stress), 6), (by_voxel - by_voxel[:, :1, :1, :1]).to(dtype)[:, None]

    def apply(self, u):
        return self.stiffness_operator(u, self.labels)


def stiffness_operator_by_label(
    grid: discretizations.Discretization, table: torch.Tensor
) -> discretizations.StiffnessOperator:
    """K = B^T C B for C of each label, (P, 6, 6); labels (B, N1, N2, N3) stand in the place of moduli."""

    @functools.cache
    def modes():
        assert isinstance(grid, discretizations.Element)
        return fast.elements.all_corner_modes(grid.element_stiffness(c, grid.spacing) for c in table)

    def apply(displacement, labels):
        if fast.use(displacement.device) and isinstance(grid, discretizations.Element):
            return fast.elements.nodal_forces_by_label(displacement, labels, modes())
        return grid.nodal_forces(engineering.hooke_by_label(grid.gradient(displacement), table, labels[:, None]))

    return apply
