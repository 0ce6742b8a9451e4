r"""sigma = C epsilon: isotropic stiffness in Mandel notation, and the bounds on what a mixture can have.

Symmetric tensors are vectors of six in the order 11, 22, 33, 23, 13, 12, with sqrt(2) on the shears (Mandel), so
that the product of two vectors is the double contraction of the tensors and stiffness is a symmetric matrix whose
eigenvalues mean something. All other notations are converted here and nowhere else.
"""

import math

import torch

from rlnlib import _checks

SQRT2 = math.sqrt(2.0)
#: Tensor indices of the six Mandel components.
MANDEL_PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_SHEAR_WEIGHT = (1.0, 1.0, 1.0, SQRT2, SQRT2, SQRT2)


def lame_parameters(young: float, poisson: float) -> tuple[float, float]:
    """Lame's lambda and the shear modulus mu, in the unit of ``young``."""
    young, poisson = _checks.positive("young", young), _checks.poisson_ratio(poisson)
    return young * poisson / ((1 + poisson) * (1 - 2 * poisson)), young / (2 * (1 + poisson))


def stiffness_from_lame(lam: float, mu: float) -> torch.Tensor:
    """C = lambda 1 (x) 1 + 2 mu I. Shape: -> (6, 6) float64, Mandel."""
    stiffness = 2 * mu * torch.eye(6, dtype=torch.float64)
    stiffness[:3, :3] += lam
    return stiffness


def isotropic_stiffness(young: float, poisson: float) -> torch.Tensor:
    """Isotropic Hooke's law (eq. 1) as a matrix.

    Shape: -> (6, 6) float64, Mandel, in the unit of ``young``.
    Raises ValueError for a modulus <= 0 or a Poisson ratio outside (-1, 0.5).
    """
    return stiffness_from_lame(*lame_parameters(young, poisson))


def mandel_from_tensor(tensor) -> torch.Tensor:
    """Shape: (..., 3, 3) symmetric -> (..., 6)."""
    tensor = torch.as_tensor(tensor)
    if tensor.ndim < 2 or tensor.shape[-2:] != (3, 3):
        raise ValueError(f"A tensor must end in the shape (3, 3); this one has {tuple(tensor.shape)}.")
    if not torch.allclose(tensor, tensor.mT):
        raise ValueError("The tensor is not symmetric: pass (t + t.mT) / 2 if only that part is meant.")
    return torch.stack([w * tensor[..., i, j] for (i, j), w in zip(MANDEL_PAIRS, _SHEAR_WEIGHT, strict=True)], -1)


def tensor_from_mandel(vector) -> torch.Tensor:
    """Shape: (..., 6) -> (..., 3, 3)."""
    vector = torch.as_tensor(vector)
    if vector.ndim < 1 or vector.shape[-1] != 6:
        raise ValueError(f"A Mandel vector must end in the shape (6,); this one has {tuple(vector.shape)}.")
    tensor = vector.new_zeros(*vector.shape[:-1], 3, 3)
    for n, ((i, j), weight) in enumerate(zip(MANDEL_PAIRS, _SHEAR_WEIGHT, strict=True)):
        tensor[..., i, j] = tensor[..., j, i] = vector[..., n] / weight
    return tensor


def mandel_from_voigt(matrix) -> torch.Tensor:
    """Stiffness in Voigt notation (engineering shears) to Mandel. Shape: (..., 6, 6) -> (..., 6, 6)."""
    matrix = torch.as_tensor(matrix)
    if matrix.ndim < 2 or matrix.shape[-2:] != (6, 6):
        raise ValueError(f"A stiffness must end in the shape (6, 6); this one has {tuple(matrix.shape)}.")
    weight = torch.tensor(_SHEAR_WEIGHT, dtype=matrix.dtype, device=matrix.device)
    return matrix * weight[:, None] * weight


def midpoint_medium(phases) -> tuple[float, float]:
    """(young, poisson) half-way between the extreme Lame parameters of the phases: of all reference media, the fixed
    point converges best with this one, where the phases have one Poisson ratio."""
    lame = torch.tensor([lame_parameters(*phase) for phase in phases], dtype=torch.float64)
    lam, mu = ((lame.amin(0) + lame.amax(0)) / 2).tolist()
    return mu * (3 * lam + 2 * mu) / (lam + mu), lam / (2 * (lam + mu))


def voigt_bound(stiffnesses, fractions) -> torch.Tensor:
    """Upper bound C <= sum_h c_h C^h (uniform strain). Shape: (P, 6, 6), (P,) -> (6, 6)."""
    stiffnesses, fractions = _mixture(stiffnesses, fractions)
    return torch.einsum("p,pij->ij", fractions, stiffnesses)


def reuss_bound(stiffnesses, fractions) -> torch.Tensor:
    """Lower bound C >= (sum_h c_h (C^h)^-1)^-1 (uniform stress). Shape: (P, 6, 6), (P,) -> (6, 6)."""
    stiffnesses, fractions = _mixture(stiffnesses, fractions)
    return torch.einsum("p,pij->ij", fractions, torch.linalg.inv(stiffnesses)).inverse()


def hashin_shtrikman_bounds(phases, fractions) -> tuple[torch.Tensor, torch.Tensor]:
    """Hashin-Shtrikman-Walpole bounds of an isotropic mixture of isotropic phases.

    Bulk and shear modulus are bounded by ``(sum_h c_h / (K_h + z))^-1 - z`` with z taken from the extreme moduli
    (Hashin & Shtrikman 1963, Walpole 1966). They bind mixtures that are isotropic as a whole; of any other periodic
    cell, they bind the mean of its effective stiffness over all orientations.

    Shape: phases [(young, poisson), ...], (P,) -> lower (6, 6), upper (6, 6).
    """
    lame = [lame_parameters(*phase) for phase in phases]
    _, fractions = _mixture([stiffness_from_lame(*pair) for pair in lame], fractions)
    shear = torch.tensor([mu for _, mu in lame], dtype=torch.float64)
    bulk = torch.tensor([lam + 2 * mu / 3 for lam, mu in lame], dtype=torch.float64)

    def mixture(k, g):
        z_bulk, z_shear = 4 * g / 3, g * (9 * k + 8 * g) / (6 * (k + 2 * g))
        mixed_bulk = 1 / (fractions / (bulk + z_bulk)).sum() - z_bulk
        mixed_shear = 1 / (fractions / (shear + z_shear)).sum() - z_shear
        return stiffness_from_lame(float(mixed_bulk - 2 * mixed_shear / 3), float(mixed_shear))

    return mixture(bulk.min(), shear.min()), mixture(bulk.max(), shear.max())


def _mixture(stiffnesses, fractions) -> tuple[torch.Tensor, torch.Tensor]:
    matrices = torch.stack([torch.as_tensor(matrix, dtype=torch.float64) for matrix in stiffnesses])
    fractions = torch.as_tensor(fractions, dtype=torch.float64)
    if fractions.shape != (len(matrices),) or bool((fractions < 0).any()) or abs(float(fractions.sum()) - 1) > 1e-9:
        raise ValueError(
            f"fractions must be {len(matrices)} volume fractions that are not negative and add up to 1; "
            f"they are {fractions.tolist()}."
        )
    return matrices, fractions
