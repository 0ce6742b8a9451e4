r"""sigma = C epsilon with up to 21 constants: materials whose stiffness depends on the direction, such as crystals.

Stiffnesses are matrices in Mandel notation, see :mod:`rlnlib.elasticity`.
"""

from __future__ import annotations

import torch

from rlnlib.engineering import mandel_from_tensor, tensor_from_mandel


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
    stiffness, turn = _matrices(stiffness), torch.as_tensor(rotation).double()
    if turn.ndim < 2 or turn.shape[-2:] != (3, 3):
        raise ValueError(f"A rotation must end in the shape (3, 3); this one has {tuple(turn.shape)}.")
    if not torch.allclose(turn @ turn.mT, torch.eye(3, dtype=turn.dtype, device=turn.device), rtol=0, atol=1e-6):
        raise ValueError("rotation must be orthogonal, R R^T = 1: this one also stretches.")
    basis = tensor_from_mandel(torch.eye(6, dtype=turn.dtype, device=turn.device))
    columns = mandel_from_tensor(turn[..., None, :, :] @ basis @ turn[..., None, :, :].mT)  # R e R^T of each
    return columns.mT @ stiffness @ columns


def closest_isotropic(stiffness) -> torch.Tensor:
    """Young's modulus and Poisson ratio of the mean of a stiffness over all orientations.

    Shape: (..., 6, 6), Mandel -> (..., 2) float64.
    """
    matrix = _matrices(stiffness)
    bulk = matrix[..., :3, :3].sum((-1, -2)) / 9
    shear = (matrix.diagonal(dim1=-2, dim2=-1).sum(-1) - 3 * bulk) / 10
    return torch.stack([9 * bulk * shear, (3 * bulk - 2 * shear) / 2], -1) / (3 * bulk + shear)[..., None]


def _matrices(stiffness) -> torch.Tensor:
    matrix = torch.as_tensor(stiffness)
    if matrix.ndim < 2 or matrix.shape[-2:] != (6, 6):
        raise ValueError(f"A stiffness must end in the shape (6, 6); this one has {tuple(matrix.shape)}.")
    return matrix.double()
