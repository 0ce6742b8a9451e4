"""target = sum_c k^c * field^c: convolution kernels fitted to data by linear least squares, frequency by frequency.

With the phase indicators m^h as fields and the strain as target, the kernels are the first-order ones of the
materials knowledge systems (Landi, Niezgoda & Kalidindi 2010): what is left of eq. 11 where the strain on its
right-hand side is uniform.
"""

from __future__ import annotations

import torch


def fit_kernels(fields: torch.Tensor, target: torch.Tensor, cutoff: float = 1e-9) -> torch.Tensor:
    """k^c that minimize the sum over the cells of ``|target - sum_c k^c * field^c|^2``, on a periodic grid.

    A Fourier transform turns the convolution into a product, so each frequency is a regression of its own: C unknown
    numbers for each component of the target, one equation for each cell. Of several minimizers the one of least norm
    is taken: the indicators of two phases add up to 1, and so determine only the difference of their kernels.

    Args:
        fields: what is convolved. Shape: (B, C, N1, N2, N3).
        target: what is to come out. Shape: (B, R, N1, N2, N3).
        cutoff: combinations of the fields with less than this part of the largest mean square count as absent.

    Returns:
        The kernels, of ``fields``' precision, for :func:`rlnlib.lippmann_schwinger.convolve`.
        Shape: (R, C, N1, N2, N3).

    Raises:
        ValueError: for arrays of another rank, or that differ in their cells or their grid.
    """
    if fields.ndim != 5 or target.ndim != 5 or len(fields) != len(target) or fields.shape[2:] != target.shape[2:]:
        raise ValueError(
            f"fields and target must have the shapes (B, C, N1, N2, N3) and (B, R, N1, N2, N3); they have "
            f"{tuple(fields.shape)} and {tuple(target.shape)}."
        )
    axes = (-3, -2, -1)
    x, y = torch.fft.rfftn(fields, dim=axes), torch.fft.rfftn(target, dim=axes)
    normal = torch.einsum("bc...,bd...->...cd", x.conj(), x)  # (N1, N2, N3 // 2 + 1, C, C)
    right = torch.einsum("bc...,br...->...cr", x.conj(), y)  # (N1, N2, N3 // 2 + 1, C, R)
    symbol = torch.linalg.pinv(normal, rtol=cutoff, hermitian=True) @ right  # (N1, N2, N3 // 2 + 1, C, R)
    return torch.fft.irfftn(symbol.movedim((-1, -2), (0, 1)), s=fields.shape[2:], dim=axes)
