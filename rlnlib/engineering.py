"""C with up to 21 constants, as engineers write it: tensors, Voigt's notation, engineering constants, turned crystals.

The library computes in Mandel's notation (:mod:`rlnlib.elasticity`). All others are converted here.
"""

from __future__ import annotations

import torch

from rlnlib import _checks
from rlnlib.elasticity import MANDEL_PAIRS, SQRT2

_SHEAR_WEIGHT = (1.0, 1.0, 1.0, SQRT2, SQRT2, SQRT2)


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


def hooke_by_label(strain: torch.Tensor, stiffness: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """sigma = C epsilon (eq. 1) of anisotropic materials, C that of each voxel's label.

    Args:
        strain: (..., 6, N1, N2, N3), Mandel.
        stiffness: C of each label, (P, 6, 6).
        labels: Broadcast against one component of the strain, (..., N1, N2, N3) int64.

    Returns:
        The stress, of the strain's shape.
    """
    table, components = stiffness.to(strain).movedim(0, -1), strain.unbind(-4)
    return torch.stack([sum(c[labels] * e for c, e in zip(row, components, strict=True)) for row in table], -4)


def rotated(stiffness, rotation) -> torch.Tensor:
    """C'_ijkl = R_ip R_jq R_kr R_ls C_pqrs: the stiffness of a material that was turned by R.

    So a polycrystal's ``phases`` are ``rotated(crystal, rotations)``, with one rotation for each grain, which takes the
    axes of its crystal to those of the cell (``scipy.spatial.transform.Rotation.random(grains).as_matrix()``).

    Args:
        stiffness: (..., 6, 6), Mandel.
        rotation: (..., 3, 3), orthogonal.

    Returns:
        (..., 6, 6) float64, Mandel.

    Raises:
        ValueError: For another shape, or a matrix that is no rotation or reflection.
    """
    (stiffness, _), turn = _stiffness(stiffness), torch.as_tensor(rotation).double()
    if turn.ndim < 2 or turn.shape[-2:] != (3, 3):
        raise ValueError(f"A rotation must end in the shape (3, 3); this one has {tuple(turn.shape)}.")
    if not torch.allclose(turn @ turn.mT, torch.eye(3, dtype=turn.dtype, device=turn.device), rtol=0, atol=1e-6):
        raise ValueError("rotation must be orthogonal, R R^T = 1: this one also stretches.")
    basis = tensor_from_mandel(torch.eye(6, dtype=turn.dtype, device=turn.device))
    columns = mandel_from_tensor(turn[..., None, :, :] @ basis @ turn[..., None, :, :].mT)  # R e R^T of each
    return columns.mT @ stiffness.double() @ columns


def closest_isotropic(stiffness) -> torch.Tensor:
    """Young's modulus and Poisson ratio of the mean of a stiffness over all orientations.

    Shape: (..., 6, 6), Mandel -> (..., 2) float64.
    """
    matrix = _stiffness(stiffness)[0].double()
    bulk = matrix[..., :3, :3].sum((-1, -2)) / 9
    shear = (matrix.diagonal(dim1=-2, dim2=-1).sum(-1) - 3 * bulk) / 10
    return torch.stack([9 * bulk * shear, (3 * bulk - 2 * shear) / 2], -1) / (3 * bulk + shear)[..., None]


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
