"""What a mixture can have: bounds of its stiffness from the phases and their volume fractions alone.

In each function ``fractions`` are the c_h of the phases, (P,); those that are negative or do not add up to 1 raise
ValueError. All bounds are (6, 6) float64, Mandel, in the unit of the phases.
"""

from __future__ import annotations

import torch

from rlnlib.elasticity import lame_table, stiffness_from_lame


def voigt_bound(stiffnesses, fractions) -> torch.Tensor:
    """Upper bound C <= sum_h c_h C^h, exact for a uniform strain (Voigt 1889). Shape: (P, 6, 6), (P,) -> (6, 6)."""
    stiffnesses, fractions = _mixture(stiffnesses, fractions)
    return torch.einsum("p,pij->ij", fractions, stiffnesses)  # (6, 6)


def reuss_bound(stiffnesses, fractions) -> torch.Tensor:
    """Lower bound C >= (sum_h c_h (C^h)^-1)^-1, exact for a uniform stress (Reuss 1929). Shape: as the upper one."""
    stiffnesses, fractions = _mixture(stiffnesses, fractions)
    return torch.einsum("p,pij->ij", fractions, torch.linalg.inv(stiffnesses)).inverse()


def hashin_shtrikman_bounds(phases, fractions) -> tuple[torch.Tensor, torch.Tensor]:
    """Hashin-Shtrikman-Walpole bounds of an isotropic mixture of isotropic phases.

    Bulk and shear modulus are bounded by ``(sum_h c_h / (K_h + z))^-1 - z`` with z taken from the extreme moduli
    (Hashin & Shtrikman 1963, Walpole 1966). They bind mixtures that are isotropic as a whole; of any other periodic
    cell, they bind the mean of its effective stiffness over all orientations.

    Args:
        phases: (young, poisson) of each phase.
        fractions: c_h, (P,).

    Returns:
        The lower and the upper bound.
    """
    table = lame_table(phases)
    _, fractions = _mixture([stiffness_from_lame(*pair) for pair in table.tolist()], fractions)
    lam, shear = table.unbind(1)
    bulk = lam + 2 * shear / 3

    def mixture(k, g):
        z_bulk, z_shear = 4 * g / 3, g * (9 * k + 8 * g) / (6 * (k + 2 * g))
        mixed_bulk = 1 / (fractions / (bulk + z_bulk)).sum() - z_bulk
        mixed_shear = 1 / (fractions / (shear + z_shear)).sum() - z_shear
        return stiffness_from_lame(float(mixed_bulk - 2 * mixed_shear / 3), float(mixed_shear))

    return mixture(bulk.min(), shear.min()), mixture(bulk.max(), shear.max())


def _mixture(stiffnesses, fractions) -> tuple[torch.Tensor, torch.Tensor]:
    """Check that the fractions are those of a mixture of so many phases. Shape: -> (P, 6, 6), (P,) float64."""
    matrices = torch.stack([torch.as_tensor(matrix, dtype=torch.float64) for matrix in stiffnesses])  # (P, 6, 6)
    fractions = torch.as_tensor(fractions, dtype=torch.float64)
    if fractions.shape != (len(matrices),) or bool((fractions < 0).any()) or abs(float(fractions.sum()) - 1) > 1e-9:
        raise ValueError(
            f"fractions must be {len(matrices)} volume fractions that are not negative and add up to 1; "
            f"they are {fractions.tolist()}."
        )
    return matrices, fractions
