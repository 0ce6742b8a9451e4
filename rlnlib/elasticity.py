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
#: Where the entries of each row of a symmetric 3 x 3 matrix stand in that order.
MANDEL_ROWS = ((0, 5, 4), (5, 1, 3), (4, 3, 2))
_SHEAR_WEIGHT = (1.0, 1.0, 1.0, SQRT2, SQRT2, SQRT2)


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
    """Lame's lambda and mu of each phase.

    Args:
        phases: (young, poisson) of each phase.

    Returns:
        (P, 2) float64.
    """
    return torch.tensor([lame_parameters(*phase) for phase in phases], dtype=torch.float64)


def lame_fields(moduli: torch.Tensor, units) -> tuple[torch.Tensor, torch.Tensor]:
    """lambda and mu of sum_p modulus_p C_p by voxel.

    Args:
        moduli: (B, P, N1, N2, N3).
        units: Lame parameters of each C_p.

    Returns:
        lambda and mu, each (B, 1, N1, N2, N3).
    """
    lam, mu = (sum(unit[i] * moduli[:, p : p + 1] for p, unit in enumerate(units)) for i in range(2))
    return lam, mu


def hooke(strain: torch.Tensor, lam, mu) -> torch.Tensor:
    """sigma = C epsilon = lambda tr(epsilon) 1 + 2 mu epsilon, Hooke's law of an isotropic material (eq. 1).

    Args:
        strain: (..., 6, N1, N2, N3), Mandel.
        lam: Lame's lambda: a number, or a field that broadcasts against the strain.
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
        young: Young's modulus, in any unit.
        poisson: Poisson ratio.

    Returns:
        (6, 6) float64, Mandel, in the unit of ``young``.

    Raises:
        ValueError: For a modulus <= 0 or a Poisson ratio outside (-1, 0.5).
    """
    return stiffness_from_lame(*lame_parameters(young, poisson))


def mandel_from_tensor(tensor) -> torch.Tensor:
    """Write a symmetric tensor as a Mandel vector.

    Args:
        tensor: (..., 3, 3).

    Returns:
        (..., 6).

    Raises:
        ValueError: For another shape, or a tensor that is not symmetric.
    """
    tensor = _real(tensor, "tensor")
    if tensor.ndim < 2 or tensor.shape[-2:] != (3, 3):
        raise ValueError(f"A tensor must end in the shape (3, 3); this one has {tuple(tensor.shape)}.")
    if not torch.allclose(tensor, tensor.mT):
        raise ValueError("The tensor is not symmetric: pass (t + t.mT) / 2 if only that part is meant.")
    return torch.stack([w * tensor[..., i, j] for (i, j), w in zip(MANDEL_PAIRS, _SHEAR_WEIGHT, strict=True)], -1)


def tensor_from_mandel(vector) -> torch.Tensor:
    """Write a Mandel vector as the symmetric tensor that it stands for.

    Args:
        vector: (..., 6).

    Returns:
        (..., 3, 3).

    Raises:
        ValueError: For another shape.
    """
    vector = _real(vector, "vector")
    if vector.ndim < 1 or vector.shape[-1] != 6:
        raise ValueError(f"A Mandel vector must end in the shape (6,); this one has {tuple(vector.shape)}.")
    tensor = vector.new_zeros(*vector.shape[:-1], 3, 3)
    for n, ((i, j), weight) in enumerate(zip(MANDEL_PAIRS, _SHEAR_WEIGHT, strict=True)):
        tensor[..., i, j] = tensor[..., j, i] = vector[..., n] / weight
    return tensor


def mandel_from_voigt(matrix) -> torch.Tensor:
    """Turn a stiffness from Voigt's notation, for engineering shears, into Mandel's.

    Args:
        matrix: (..., 6, 6), Voigt, in the order 11, 22, 33, 23, 13, 12.

    Returns:
        (..., 6, 6), Mandel.

    Raises:
        ValueError: For another shape.
    """
    matrix, weight = _stiffness(matrix)
    return matrix * weight[:, None] * weight


def voigt_from_mandel(matrix) -> torch.Tensor:
    """Turn a stiffness from Mandel's notation into Voigt's, for engineering shears 2 epsilon_23, ..., 2 epsilon_12.

    Args:
        matrix: (..., 6, 6), Mandel.

    Returns:
        (..., 6, 6), Voigt, in the order 11, 22, 33, 23, 13, 12.

    Raises:
        ValueError: For another shape.
    """
    matrix, weight = _stiffness(matrix)
    return matrix / (weight[:, None] * weight)


def engineering_constants(stiffness) -> dict[str, torch.Tensor]:
    """Young's moduli, Poisson ratios and shear moduli along the axes, from the compliance S = C^-1.

    Args:
        stiffness: (..., 6, 6), Mandel, as :func:`rlnlib.effective_stiffness` returns it.

    Returns:
        "E1", "E2", "E3" = 1 / S_ii; "nu12", "nu21", ... = -S_ji / S_ii, the contraction along j under a stress along
        i; "G23", "G13", "G12" = 1 / (2 S_kk) of the Mandel shears. Each (...), moduli in the unit of the stiffness.

    Raises:
        ValueError: For another shape, or a stiffness that is not positive definite.
    """
    matrix, _ = _stiffness(stiffness)
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("The stiffness contains NaN or infinity.")
    if not bool((torch.linalg.eigvalsh((matrix + matrix.mT) / 2) > 0).all()):
        raise ValueError("The stiffness is not positive definite: it has no engineering constants.")
    compliance = torch.linalg.inv(matrix)
    constants = {f"E{i + 1}": 1 / compliance[..., i, i] for i in range(3)}
    for i in range(3):
        for j in range(3):
            if i != j:
                constants[f"nu{i + 1}{j + 1}"] = -compliance[..., j, i] / compliance[..., i, i]
    for n, (i, j) in enumerate(MANDEL_PAIRS[3:], start=3):
        constants[f"G{i + 1}{j + 1}"] = 1 / (2 * compliance[..., n, n])
    return constants


def _real(value, name: str) -> torch.Tensor:
    """Real numbers in float32 or float64; whole ones would be cut where they meet sqrt(2)."""
    checked = _checks.as_tensor(value, name)
    if checked.is_complex():
        raise ValueError(f"{name} must be real; its dtype is {checked.dtype}.")
    kept = value if isinstance(value, torch.Tensor) else checked  # with its gradient
    return kept if kept.dtype in (torch.float32, torch.float64) else kept.to(torch.float64)


def _stiffness(matrix) -> tuple[torch.Tensor, torch.Tensor]:
    """Check the shape (..., 6, 6), and give sqrt(2) for the shears beside it, (6,)."""
    matrix = _real(matrix, "stiffness")
    if matrix.ndim < 2 or matrix.shape[-2:] != (6, 6):
        raise ValueError(f"A stiffness must end in the shape (6, 6); this one has {tuple(matrix.shape)}.")
    return matrix, torch.tensor(_SHEAR_WEIGHT, dtype=matrix.dtype, device=matrix.device)


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


def voigt_bound(stiffnesses, fractions) -> torch.Tensor:
    """Upper bound C <= sum_h c_h C^h, exact for a uniform strain (Voigt 1889).

    Args:
        stiffnesses: C^h, (P, 6, 6), Mandel.
        fractions: c_h, (P,).

    Returns:
        (6, 6) float64, Mandel.

    Raises:
        ValueError: For fractions that are negative or do not add up to 1.
    """
    stiffnesses, fractions = _mixture(stiffnesses, fractions)
    return torch.einsum("p,pij->ij", fractions, stiffnesses)  # (6, 6)


def reuss_bound(stiffnesses, fractions) -> torch.Tensor:
    """Lower bound C >= (sum_h c_h (C^h)^-1)^-1, exact for a uniform stress (Reuss 1929).

    Args:
        stiffnesses: C^h, (P, 6, 6), Mandel.
        fractions: c_h, (P,).

    Returns:
        (6, 6) float64, Mandel.

    Raises:
        ValueError: For fractions that are negative or do not add up to 1.
    """
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
        The lower and the upper bound, (6, 6) float64 each, Mandel.

    Raises:
        ValueError: For fractions that are negative or do not add up to 1.
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
