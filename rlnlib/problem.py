"""div sigma = 0 in a periodic cell under a macroscopic strain: what is given of an elastic cell problem.

The finite-element solver (:mod:`rlnlib.voxel_fe`) and the Lippmann-Schwinger form (:mod:`rlnlib.lippmann_schwinger`)
both start from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from rlnlib import _checks, elasticity, engineering


@dataclass(frozen=True)
class CellProblem:
    """A batch of cells of one shape.

    Attributes:
        labels: Phase of each voxel, (B, N1, N2, N3) int64.
        phases: (young, poisson) of each label; of an anisotropic one, those of the closest isotropic material.
        macroscopic_strain: Mean strain of each cell, (B, 6) float64, Mandel.
        spacing: Edges of a voxel, in any unit of length.
        stiffness: C of each label, (P, 6, 6) float64, Mandel, where one of them is anisotropic; else None.
    """

    labels: torch.Tensor
    phases: list[tuple[float, float]]
    macroscopic_strain: torch.Tensor
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stiffness: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N1, N2, N3)."""
        return tuple(self.labels.shape[1:])

    @property
    def has_one_poisson_ratio(self) -> bool:
        return len({nu for _, nu in self.phases}) == 1

    def part(self, cells: slice, device: torch.device) -> CellProblem:
        """Some of the cells, on a device."""
        return replace(
            self, labels=self.labels[cells].to(device), macroscopic_strain=self.macroscopic_strain[cells].to(device)
        )

    def under(self, macroscopic_strain: torch.Tensor) -> CellProblem:
        """The same cells under another macroscopic strain. Shape: (B, 6)."""
        return replace(self, macroscopic_strain=macroscopic_strain.to(self.labels.device, torch.float64))

    def by_voxel(self, table: torch.Tensor) -> torch.Tensor:
        """The value of each voxel's phase. Shape: (P,) -> (B, 1, N1, N2, N3)."""
        return table.to(self.labels.device)[self.labels][:, None]

    def law(self, dtype: torch.dtype, reference: tuple[float, float] = (0.0, 0.0)) -> Callable:
        """The function that takes a strain to the stress C epsilon (eq. 1).

        Conjugate gradients do not call it. Their K has the same C, within one matrix of an element's 24 corner values
        (:meth:`rlnlib.discretizations.Element.element_stiffness`), which passes by its 48 strains and 48 stresses.

        Args:
            dtype: Precision.
            reference: Lame parameters of C^R, for C - C^R in place of C.

        Returns:
            A function of (B, 6, N1, N2, N3), or (B, G, 6, N1, N2, N3) at integration points, to the same.
        """
        if self.stiffness is not None:
            excess = self.stiffness - elasticity.stiffness_from_lame(*reference)
            return lambda strain: engineering.hooke_by_label(
                strain, excess.to(strain), self.labels if strain.ndim == 5 else self.labels[:, None]
            )
        table = elasticity.lame_table(self.phases) - torch.tensor(reference, dtype=torch.float64)
        moduli = [self.by_voxel(column) for column in table.to(dtype).unbind(1)]
        return lambda strain: elasticity.hooke(strain, *(m if strain.ndim == 5 else m[:, None] for m in moduli))


def cell_problem(
    stiff,
    contrast: float | None = None,
    poisson: float = 0.3,
    macroscopic_strain=(1, 0, 0, 0, 0, 0),
    phases: Sequence | None = None,
    spacing=(1, 1, 1),
    device: torch.device | str | None = None,
) -> CellProblem:
    """Check what a user gives, and make a cell problem of it.

    Args:
        stiff, contrast, poisson, macroscopic_strain, phases, spacing, device: As for :func:`rlnlib.solve_strain`.

    Returns:
        The problem, with the labels on ``device``.

    Raises:
        ValueError: For a wrong shape, label, contrast, Poisson ratio, strain or spacing.
    """
    materials = _checks.as_phases(contrast, poisson, phases)
    labels = _checks.as_labels(stiff, len(materials))
    labels = labels.to(_checks.as_device(device, labels.device))
    strain = _checks.mandel_vector("macroscopic_strain", macroscopic_strain, batch=len(labels)).to(labels.device)
    if not any(isinstance(material, torch.Tensor) for material in materials):
        return CellProblem(labels, materials, strain, _checks.as_spacing(spacing))
    stiffness = torch.stack(
        [m if isinstance(m, torch.Tensor) else elasticity.isotropic_stiffness(*m) for m in materials]
    )
    closest = [(young, nu) for young, nu in engineering.closest_isotropic(stiffness).tolist()]
    return CellProblem(labels, closest, strain, _checks.as_spacing(spacing), stiffness)
