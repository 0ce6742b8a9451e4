r"""sigma = C epsilon: isotropic stiffness in Mandel notation.

Symmetric tensors are vectors of six in the order 11, 22, 33, 23, 13, 12, with sqrt(2) on the shears (Mandel), so
that the product of two vectors is the double contraction of the tensors and stiffness is a symmetric matrix whose
eigenvalues mean something. :mod:`rlnlib.engineering` converts other notations, and nothing else does.
"""

import math

import torch

from rlnlib import _checks

SQRT2 = math.sqrt(2.0)
#: Tensor indices of the six Mandel components.
MANDEL_PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
#: Where the entries of each row of a symmetric 3 x 3 matrix stand in that order.
MANDEL_ROWS = ((0, 5, 4), (5, 1, 3), (4, 3, 2))


def lame_parameters(young: float, poisson: float) -> tuple[float, float]:
    """lambda = E nu / ((1 + nu)(1 - 2 nu)) and mu = E / (2 (1 + nu)), in the unit of ``young``.

    Args:
        young: Young's modulus, in any unit.
        poisson: Poisson ratio.

    Returns:
        lambda and mu.

    Raises:
        ValueError: For a modulus <= 0 or a Poisson ratio outside (-1, 0.5).
    """
    young, poisson = _checks.positive("young", young), _checks.poisson_ratio(poisson)
    young = _checks.within("young", young, 1e-300, 1e300)  # beyond, its inverse or multiples are not finite
    return young * poisson / ((1 + poisson) * (1 - 2 * poisson)), young / (2 * (1 + poisson))


def lame_table(phases) -> torch.Tensor:
    """Lame's lambda and mu of each phase, from its (young, poisson). Shape: -> (P, 2) float64."""
    return torch.tensor([lame_parameters(*phase) for phase in phases], dtype=torch.float64)


def lame_fields(moduli: torch.Tensor, basis) -> tuple[torch.Tensor, torch.Tensor]:
    """lambda and mu of sum_p modulus_p C_p by voxel, C_p having the Lame parameters ``basis[p]``.

    Shape: (B, P, N1, N2, N3) -> two of (B, 1, N1, N2, N3).
    """
    lam, mu = (sum(lame[i] * moduli[:, p : p + 1] for p, lame in enumerate(basis)) for i in range(2))
    return lam, mu


def hooke(strain: torch.Tensor, lam, mu) -> torch.Tensor:
    """sigma = C epsilon = lambda tr(epsilon) 1 + 2 mu epsilon, Hooke's law of an isotropic material (eq. 1).

    Args:
        strain: (..., 6, N1, N2, N3), Mandel.
        lam: Lame's lambda: a number, or a field (..., 1, N1, N2, N3).
        mu: Lame's mu, likewise.

    Returns:
        The stress, of the strain's shape, in the unit of the moduli.
    """
    stress = 2 * mu * strain  # eq. 1
    stress[..., :3, :, :, :] += lam * strain[..., :3, :, :, :].sum(-4, keepdim=True)
    return stress


def stiffness_from_lame(lam: float, mu: float) -> torch.Tensor:
    """C = lambda 1 (x) 1 + 2 mu I. Shape: -> (6, 6) float64, Mandel."""
    stiffness = 2 * mu * torch.eye(6, dtype=torch.float64)
    stiffness[:3, :3] += lam
    return stiffness


def isotropic_stiffness(young: float, poisson: float) -> torch.Tensor:
    """C of Hooke's law (eq. 1) as a matrix.

    Args:
        young, poisson: As for :func:`lame_parameters`.

    Returns:
        (6, 6) float64, Mandel, in the unit of ``young``.

    Raises:
        ValueError: As there.
    """
    return stiffness_from_lame(*lame_parameters(young, poisson))


def midpoint_medium(phases) -> tuple[float, float]:
    """(young, poisson) half-way between the extreme Lame parameters of the phases.

    Of all reference media, the fixed point converges best with this one, where the phases have one Poisson ratio.

    Args:
        phases: (young, poisson) of each phase.

    Returns:
        Young's modulus, in the unit of the phases, and Poisson ratio.
    """
    table = lame_table(phases)
    lam, mu = ((table.amin(0) + table.amax(0)) / 2).tolist()
    return mu * (3 * lam + 2 * mu) / (lam + mu), lam / (2 * (lam + mu))
