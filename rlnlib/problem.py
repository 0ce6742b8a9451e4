"""div sigma = 0 in a periodic cell under a macroscopic strain: what is given of an elastic cell problem.

A cell problem is the labels of the voxels, the material of each label, the macroscopic strain, and the edges of a
voxel. The finite-element solver (:mod:`rlnlib.voxel_fe`) and the Lippmann-Schwinger form
(:mod:`rlnlib.lippmann_schwinger`) both start from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from rlnlib import _checks, anisotropy, elasticity


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
    def contrast(self) -> float:
        """Largest over smallest Young's modulus; of anisotropic phases, eigenvalue of C."""
        if self.stiffness is not None:
            eigenvalues = torch.linalg.eigvalsh(self.stiffness)
            return float(eigenvalues.max() / eigenvalues.min())
        moduli = [young for young, _ in self.phases]
        return max(moduli) / min(moduli)

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

    def refuse_fields_beyond(self, dtype: torch.dtype) -> None:
        """Raise ValueError for fields that the dtype cannot hold: they would be infinite, or zero."""
        moduli = [young for young, _ in self.phases]
        sizes = self.macroscopic_strain.abs().amax(1)
        sizes = sizes[sizes > 0]
        if not len(sizes):
            return
        low, high = float(sizes.min()), float(sizes.max())
        largest, smallest = torch.finfo(dtype).max / 2**30, torch.finfo(dtype).tiny * 2**30
        if max(high, high * max(moduli)) > largest or min(low, low * min(moduli)) < smallest:
            raise ValueError(
                f"macroscopic_strain of {low:g} to {high:g} with moduli of {min(moduli):g} to {max(moduli):g} gives "
                f"fields beyond the range of {dtype}: take other units, or dtype=torch.float64."
            )

    def by_voxel(self, table: torch.Tensor) -> torch.Tensor:
        """The value of each voxel's phase. Shape: (P,) -> (B, 1, N1, N2, N3)."""
        return table.to(self.labels.device)[self.labels][:, None]

    def lame(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lame's lambda and mu of each voxel, two float64 fields (B, 1, N1, N2, N3)."""
        lam, mu = elasticity.lame_table(self.phases).unbind(1)
        return self.by_voxel(lam), self.by_voxel(mu)

    def law(self, dtype: torch.dtype, reference: tuple[float, float] = (0.0, 0.0)) -> Callable:
        """The function that takes a strain to the stress C epsilon (eq. 1).

        Args:
            dtype: Precision.
            reference: Lame parameters of C^R, for C - C^R in place of C.

        Returns:
            A function of (B, 6, N1, N2, N3), or (B, G, 6, N1, N2, N3) at integration points, to the same.
        """
        if self.stiffness is not None:
            excess = self.stiffness - elasticity.stiffness_from_lame(*reference)
            return lambda strain: anisotropy.hooke_by_label(
                strain, excess.to(strain), self.labels if strain.ndim == 5 else self.labels[:, None]
            )
        table = elasticity.lame_table(self.phases) - torch.tensor(reference, dtype=torch.float64)
        moduli = [self.by_voxel(column) for column in table.to(dtype).unbind(1)]
        return lambda strain: elasticity.hooke(strain, *(m if strain.ndim == 5 else m[:, None] for m in moduli))

    def in_units(self) -> tuple[CellProblem, Units]:
        """The same problem with moduli, loads and voxels of the order of one, and the units that give it back.

        In Pa, the squares of nodal forces overflow float32. The units are powers of two, so that no digit changes.
        """
        modulus = _power_of_two(min(young for young, _ in self.phases))
        length = _power_of_two(min(self.spacing))
        largest = self.macroscopic_strain.abs().amax(1)
        exponent = torch.frexp(torch.where(largest > 0, largest, 1))[1] - 1
        strain = torch.pow(torch.full_like(largest, 2.0), exponent)  # torch.ldexp would go through float32
        first, second, third = (edge / length for edge in self.spacing)
        problem = replace(
            self,
            phases=[(young / modulus, nu) for young, nu in self.phases],
            macroscopic_strain=self.macroscopic_strain / strain[:, None],
            spacing=(first, second, third),
            stiffness=None if self.stiffness is None else self.stiffness / modulus,
        )
        return problem, Units(modulus, strain, length)


@dataclass(frozen=True)
class Units:
    """What to multiply the fields of a scaled problem by; ``strain`` (B,) is by cell."""

    modulus: float
    strain: torch.Tensor
    length: float


def _power_of_two(value: float) -> float:
    """The largest power of two that is not above ``value``."""
    return math.ldexp(1.0, math.frexp(value)[1] - 1)


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
        stiff: (B, N1, N2, N3), or (N1, N2, N3) for a batch of one: bool or 0/1 with ``contrast``, else phase labels.
        contrast: Young's modulus of the stiff phase; that of the soft one is 1.
        poisson: Poisson ratio of both.
        macroscopic_strain: (6,) or (B, 6), Mandel order 11, 22, 33, 23, 13, 12.
        phases: In place of ``contrast``: (young, poisson) or stiffness (6, 6) of each label.
        spacing: Edges of a voxel along the three axes; only their ratios matter for strain and stress.
        device: Where the labels shall lie; by default where they are.

    Returns:
        The problem.

    Raises:
        ValueError: For a wrong shape, label, contrast, Poisson ratio, strain or spacing.
    """
    materials = _checks.as_phases(contrast, poisson, phases)
    labels = _checks.as_labels(stiff, len(materials))
    labels = labels.to(_checks.as_device(device, labels.device))
    strain = _checks.mandel_vector("macroscopic_strain", macroscopic_strain, batch=len(labels)).to(labels.device)
    if not any(isinstance(material, torch.Tensor) for material in materials):
        return CellProblem(labels, materials, strain, as_spacing(spacing))
    stiffness = torch.stack(
        [m if isinstance(m, torch.Tensor) else elasticity.isotropic_stiffness(*m) for m in materials]
    )
    closest = [(young, nu) for young, nu in anisotropy.closest_isotropic(stiffness).tolist()]
    return CellProblem(labels, closest, strain, as_spacing(spacing), stiffness)


def as_spacing(spacing) -> tuple[float, float, float]:
    """Check the edges of a voxel.

    Args:
        spacing: three positive numbers, in any unit.

    Returns:
        The three edges.

    Raises:
        ValueError: For anything else, or an edge more than a thousand times as long as another.
    """
    values = _checks.as_tensor(spacing, "spacing")
    if values.shape != (3,):
        raise ValueError(f"spacing must be the three edges of a voxel; its shape is {tuple(values.shape)}.")
    first, second, third = (_checks.positive("spacing", edge) for edge in values.tolist())
    edges = first, second, third
    if max(edges) > 1000 * min(edges):
        raise ValueError(f"spacing must not have edges more than 1000 times another; it is {edges}.")
    return edges


def as_medium(reference) -> tuple[float, float]:
    """Check the (young, poisson) of a reference medium, and return them.

    Raises:
        ValueError: For what is no pair, a modulus <= 0 or a Poisson ratio outside (-1, 0.5).
    """
    young, nu = _checks.pair("reference", reference)
    return _checks.positive("reference: Young's modulus", young), _checks.poisson_ratio(nu, "reference: Poisson ratio")


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
