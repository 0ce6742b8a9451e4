"""Transforms over the axes of space for CPUs; their plain twin is :class:`rlnlib.green.Fourier`.

Neither result depends on the number of threads, as that of torch's inverse real transform does: it would change data
sets in the last bit.
"""

from __future__ import annotations

import math

import scipy.fft
import torch

from rlnlib.fast import cores

#: Longest axis for dense transforms. They take 0.4 of the fast Fourier transform's time at 31 (a prime), 1.1 at 32 and
#: 1.0 at 48 (float32, two cores).
DENSE = 48


def choose(shape) -> Hartley | Fourier:
    """The transform that suits a grid."""
    return Hartley(shape) if max(shape) <= DENSE else Fourier(shape)


class Hartley:
    """Real transforms that make an even stencil of vectors a 3 x 3 matrix by frequency, as Fourier's do.

    cas t = cos t + sin t turns under differentiation into cas(-t), so component i is expanded in cas(-t) along axis i
    and in cas(t) along the others: then d_i d_j takes the basis of component j to that of component i. The matrix of
    each axis and component is symmetric and its own inverse, (3, N, N).
    """

    half = False

    def __init__(self, shape):
        self.matrices: dict[torch.dtype, list[torch.Tensor]] = {torch.float64: []}
        for axis, n in enumerate(shape):
            k = torch.arange(n, dtype=torch.float64)
            angle = 2 * math.pi / n * (k[:, None] * k % n)
            signs = torch.tensor([-1.0 if i == axis else 1.0 for i in range(3)], dtype=torch.float64)
            matrix = (torch.cos(angle) + signs[:, None, None] * torch.sin(angle)) / math.sqrt(n)
            self.matrices[torch.float64].append(matrix)

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        """Shape: (B, 3, N1, N2, N3) -> (B, 3, N1, N2, N3)."""
        if field.dtype not in self.matrices:
            self.matrices[field.dtype] = [matrix.to(field.dtype) for matrix in self.matrices[torch.float64]]
        for matrix in reversed(self.matrices[field.dtype]):  # each product brings the axis it transforms to the front
            *front, n = field.shape
            field = (matrix @ field.reshape(*front[:2], -1, n).mT).view(*front[:2], n, *front[2:])
        return field

    back = forward

    def spread(self, symbol: torch.Tensor) -> torch.Tensor:
        return symbol


class Fourier:
    """The real Fourier transform by SciPy, whose threads sleep while they wait."""

    half = True

    def __init__(self, shape):
        self.shape = tuple(shape)

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        """Shape: (B, 3, N1, N2, N3) -> (B, 3, N1, N2, pairs)."""
        spectrum = scipy.fft.rfftn(field.numpy(), axes=(-3, -2, -1), workers=cores.sharing(field.numel()))
        return torch.view_as_real(torch.from_numpy(spectrum)).flatten(-2)

    def back(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Shape: (B, 3, N1, N2, pairs) -> (B, 3, N1, N2, N3)."""
        field = scipy.fft.irfftn(
            torch.view_as_complex(spectrum.unflatten(-1, (-1, 2))).numpy(),
            s=self.shape,
            axes=(-3, -2, -1),
            workers=cores.sharing(spectrum.numel()),
            overwrite_x=True,
        )
        return torch.from_numpy(field)

    def spread(self, symbol: torch.Tensor) -> torch.Tensor:
        return symbol.repeat_interleave(2, dim=-1)
