"""Transforms over the axes of space for CPUs; their plain twin is :class:`rlnlib.green.Fourier`.

Neither result depends on the number of threads, as that of torch's inverse real transform does: it would change data
sets in the last bit.
"""

from __future__ import annotations

import math

import scipy.fft
import torch

from rlnlib.fast import cores, memory

#: Longest axis for dense transforms. They take 0.4 of the fast Fourier transform's time at 31 (a prime), 1.1 at 32 and
#: 1.0 at 48 (float32, two cores).
DENSE = 48


def choose(shape) -> Hartley | MKLFourier | Fourier:
    """The transform that suits a grid."""
    if max(shape) <= DENSE:
        return Hartley(shape)
    return MKLFourier(shape) if torch.backends.mkl.is_available() and all(map(_is_smooth, shape)) else Fourier(shape)


def _is_smooth(n: int) -> bool:
    """Whether n has no prime factor above 7: at 62 MKL takes several times SciPy's time, at 64 less than half."""
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


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
        field = field.contiguous()
        for matrix in reversed(self.matrices[field.dtype]):  # each product brings the axis it transforms to the front
            *front, n = field.shape
            turned = memory.empty((*front[:2], n, *front[2:]), field.dtype)
            torch.matmul(matrix, field.view(*front[:2], -1, n).mT, out=turned.view(*front[:2], n, -1))
            field = turned
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
        return symbol


class MKLFourier(Fourier):
    """The same by torch, whose transforms are MKL's.

    Component by component into memory that is handed on: what torch makes on the way is a third as large, and leaves
    fewer holes where the next field does not fit. Within a solve torch has one thread; the components are shared out to
    those of :mod:`rlnlib.fast.cores`.
    """

    def forward(self, field):
        *front, n = field.shape
        spectrum = memory.empty((*front, n // 2 + 1), field.dtype.to_complex())
        _by_component(torch.fft.rfftn, field, spectrum)
        return torch.view_as_real(spectrum).flatten(-2)

    def back(self, spectrum):
        def transform(part):  # in two steps: torch's own one copies the spectrum first
            return torch.fft.irfft(torch.fft.ifftn(part, dim=(0, 1)), n=self.shape[2])

        field = memory.empty((*spectrum.shape[:2], *self.shape), spectrum.dtype)
        _by_component(transform, torch.view_as_complex(spectrum.unflatten(-1, (-1, 2))), field)
        return field


def _by_component(transform, source: torch.Tensor, target: torch.Tensor) -> None:
    """``transform`` of each component of vectors, side by side on the cores. Shape: (B, 3, ...) -> (B, 3, ...)."""

    def work(start: int, stop: int) -> None:
        for k in range(start, stop):
            parts[k].copy_(transform(components[k]))

    components, parts = source.flatten(0, 1), target.flatten(0, 1)
    cores.split(work, len(components), source.numel())
