"""Transforms over the axes of space for CPUs; their plain twin is :class:`rlnlib.green.Fourier`.

Neither result depends on the number of threads, as that of torch's inverse real transform does: it would change data
sets in the last bit.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
import torch

from rlnlib.fast import cores, memory
from rlnlib.fast.compiling import compiled

#: Longest axis for dense transforms. They take 0.6 of the time of MKL's fast Fourier transform at 64, 0.85 at 128.
DENSE = 128
#: Rows of a field that are transformed together, side by side in the first- and second-level cache.
_LANES = 256
#: From one value of a row to the next: no power of two, by which all would want the same places of the cache, and with
#: room for what loops over four values read and write too many.
_STRIDE = _LANES + 16


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
    and in cas(t) along the others: then d_i d_j takes the basis of component j to that of component i. The transform is
    its own inverse.
    """

    def __init__(self, shape):
        self.shape = tuple(shape)
        self.axes = {torch.float64: [_axis(n) for n in shape]}

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        """Shape: (B, 3, N1, N2, N3) -> (B, 3, N1, N3, N2)."""
        return self._transform(field, (0, 1, 2))

    def back(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Shape: (B, 3, N1, N3, N2) -> (B, 3, N1, N2, N3)."""
        return self._transform(spectrum, (0, 2, 1))

    def _transform(self, field, order):
        if field.dtype not in self.axes:
            kind = field.numpy().dtype
            self.axes[field.dtype] = [(axis[0].astype(kind), *axis[1:]) for axis in self.axes[torch.float64]]
        axes = [self.axes[field.dtype][axis] for axis in order]
        n1, n2, n3 = field.shape[2:]
        out = memory.empty((*field.shape[:3], n3, n2), field.dtype)
        source, target = (part.view(-1, n1, n2 * n3).numpy() for part in (field.contiguous(), out))
        cores.split(lambda *some: _hartley(source, target, n2, n3, *axes, order, *some), len(source), field.numel())
        return out

    def spread(self, symbol: torch.Tensor) -> torch.Tensor:
        """To all frequencies of the last axis, where xz and yz change sign; then as :meth:`forward` leaves them."""
        n = self.shape[2]
        others = symbol[..., 1 : n - n // 2].flip(-1)
        others[3:5] *= -1
        return torch.cat([symbol, others], -1).mT


def _axis(n: int) -> tuple[np.ndarray, ...]:
    """Write a transform of n values as sums and differences, products with small matrices, sums and differences.

    x_i + x_(n-i) have the cosines alone, x_i - x_(n-i) the sines: half the products. For an even n the mirror image
    n/2 - i parts even frequencies from odd ones: a quarter.

    Returns:
        The matrices along the diagonal of one; where each begins; the pairs of values before it, in the order in which
        sum and difference replace them; those after it, with the places of sum and difference, for cas(t) and cas(-t).
    """
    half, quarter = n // 2, (n // 2 + 1) // 2
    fold = [(i, n - i) for i in range(1, n - half)]
    cosines, sines = np.arange(half + 1), n - np.arange(n - half)  # the row of each frequency's product
    begins = [0, half + 1, n]
    if n % 2 == 0:
        fold += [(i, half - i) for i in range(quarter)] + [(n - i, half + i) for i in range(1, quarter)]
        begins = [0, half // 2 + 1, half + 1, half + quarter, n]
        frequency = np.arange(half + 1)
        cosines = frequency // 2 + np.where(frequency % 2, begins[1], 0)
        sines = frequency // 2 + np.where(frequency % 2, begins[3], half)
    alone = [(cosines[k], cosines[k], k, n) for k in range(half + 1) if 2 * k % n == 0]  # their difference is of no use
    pairs = [(cosines[k], sines[k], k, n - k) for k in range(1, n - half)]
    mirrored = [(p, q, difference, total) for p, q, total, difference in pairs]

    angle = 2 * math.pi / n * (np.outer(np.arange(n), np.arange(n)) % n)
    rows, unit = (np.cos(angle) + np.sin(angle)) / math.sqrt(n), np.eye(n)
    for p, q in fold:
        for matrix in (rows, unit):
            matrix[[p, q]] = matrix[p] + matrix[q], matrix[p] - matrix[q]
    rows = (rows / (unit**2).sum(1, keepdims=True)).T  # the transform times the inverse of what comes before
    matrix = np.zeros((n + 4, n + 4))
    for p, q, total, difference in pairs:
        matrix[p, :n], matrix[q, :n] = (rows[total] + rows[difference]) / 2, (rows[total] - rows[difference]) / 2
    for p, _, k, _ in alone:
        matrix[p, :n] = rows[k] / 2
    place = np.searchsorted(begins, np.arange(n + 4), "right")
    matrix[place[:, None] != place] = 0  # but for rounding they are
    return (
        matrix,
        np.array(begins),
        np.array(fold, dtype=np.int64).reshape(-1, 2),
        np.array([alone + pairs, alone + mirrored]),
    )


# Lengths and offsets go through max(..., 0): where the compiler does not know that a place is not counted from the end,
# as Python counts -1, it makes no vectors.


@compiled
def _hartley(field, out, n2, n3, along_x, along_y, along_z, order, start, stop):
    """Transform some vector components. Shape: (3 B, N1, N2 N3) -> (3 B, N1, N3 N2)."""
    n1, n2, n3 = field.shape[1], max(n2, 0), max(n3, 0)
    a = np.zeros((max(n1, n2, n3) + 4) * _STRIDE, field.dtype)
    b = np.zeros_like(a)
    group = _LANES // max(n2, n3)
    for f in range(start, stop):
        for lane in range(0, n2 * n3, _LANES):
            first = max(lane, 0)
            width = min(_LANES, n2 * n3 - first)
            for i in range(n1):
                row = i * _STRIDE
                for k in range(width):
                    a[row + k] = field[f, i, first + k]
            _transform_rows(a, b, along_x, f % 3 == order[0], width)
            for i in range(n1):
                row = i * _STRIDE
                for k in range(width):
                    out[f, i, first + k] = a[row + k]
        for x in range(0, n1, group):
            planes = min(group, n1 - x)
            for i in range(n2):
                for plane in range(planes):
                    row, place = max(i * _STRIDE + plane * n3, 0), max(i * n3, 0)
                    for k in range(n3):
                        a[row + k] = out[f, x + plane, place + k]
            _transform_rows(a, b, along_y, f % 3 == order[1], planes * n3)
            _turn(a, b, n2, n3, planes)
            _transform_rows(b, a, along_z, f % 3 == order[2], planes * n2)
            for i in range(n3):
                for plane in range(planes):
                    row, place = max(i * _STRIDE + plane * n2, 0), max(i * n2, 0)
                    for k in range(n2):
                        out[f, x + plane, place + k] = b[row + k]


@compiled
def _transform_rows(a, b, axis, mirrored, width):
    """Transform each column of ``a`` in place."""
    matrix, begins, before, after = axis
    n = max(begins[len(begins) - 1], 0)
    for i in range(n, n + 4):  # what an earlier cell has left there may be NaN, and 0 times that is NaN
        for k in range(width):
            a[i * _STRIDE + k] = 0
    for i in range(len(before)):
        p, q = max(before[i, 0], 0) * _STRIDE, max(before[i, 1], 0) * _STRIDE
        for k in range(width):
            x, y = a[p + k], a[q + k]
            a[p + k] = x + y
            a[q + k] = x - y
    for i in range(len(begins) - 1):
        _multiply(matrix, begins[i], begins[i + 1], a, b, width)
    m = int(mirrored)
    for i in range(after.shape[1]):
        p, q = max(after[m, i, 0], 0) * _STRIDE, max(after[m, i, 1], 0) * _STRIDE
        s, d = max(after[m, i, 2], 0) * _STRIDE, max(after[m, i, 3], 0) * _STRIDE
        for k in range(width):
            a[s + k] = b[p + k] + b[q + k]
            a[d + k] = b[p + k] - b[q + k]


@compiled
def _multiply(matrix, first, last, a, b, width):
    """Rows ``first`` to ``last`` of b = matrix a, four rows by four at a time, as many as the registers hold.

    Beyond ``last`` the matrix is 0, and what is written there is overwritten by the rows that come next.
    """
    s1, s2, s3 = _STRIDE, 2 * _STRIDE, 3 * _STRIDE
    for i in range(first, last, 4):
        t = max(i, 0) * _STRIDE
        for j in range(first, last, 4):
            s = max(j, 0) * _STRIDE
            a0, a1, a2, a3 = matrix[i, j], matrix[i, j + 1], matrix[i, j + 2], matrix[i, j + 3]
            b0, b1, b2, b3 = matrix[i + 1, j], matrix[i + 1, j + 1], matrix[i + 1, j + 2], matrix[i + 1, j + 3]
            c0, c1, c2, c3 = matrix[i + 2, j], matrix[i + 2, j + 1], matrix[i + 2, j + 2], matrix[i + 2, j + 3]
            d0, d1, d2, d3 = matrix[i + 3, j], matrix[i + 3, j + 1], matrix[i + 3, j + 2], matrix[i + 3, j + 3]
            if j == first:
                for k in range(width):
                    w, x, y, z = a[s + k], a[s + s1 + k], a[s + s2 + k], a[s + s3 + k]
                    b[t + k] = a0 * w + a1 * x + a2 * y + a3 * z
                    b[t + s1 + k] = b0 * w + b1 * x + b2 * y + b3 * z
                    b[t + s2 + k] = c0 * w + c1 * x + c2 * y + c3 * z
                    b[t + s3 + k] = d0 * w + d1 * x + d2 * y + d3 * z
            else:
                for k in range(width):
                    w, x, y, z = a[s + k], a[s + s1 + k], a[s + s2 + k], a[s + s3 + k]
                    b[t + k] += a0 * w + a1 * x + a2 * y + a3 * z
                    b[t + s1 + k] += b0 * w + b1 * x + b2 * y + b3 * z
                    b[t + s2 + k] += c0 * w + c1 * x + c2 * y + c3 * z
                    b[t + s3 + k] += d0 * w + d1 * x + d2 * y + d3 * z


@compiled
def _turn(a, b, n2, n3, planes):
    """Make rows of ``b`` of the columns of each plane in ``a``, four by four; the next plane overwrites the excess."""
    n2, n3 = max(n2, 0), max(n3, 0)
    for plane in range(planes):
        for i in range(0, n2, 4):
            for k in range(0, n3, 4):
                p, q = max(i * _STRIDE + plane * n3 + k, 0), max(k * _STRIDE + plane * n2 + i, 0)
                for j in range(4):
                    b[q + j] = a[p + j * _STRIDE]
                for j in range(4):
                    b[q + _STRIDE + j] = a[p + 1 + j * _STRIDE]
                for j in range(4):
                    b[q + 2 * _STRIDE + j] = a[p + 2 + j * _STRIDE]
                for j in range(4):
                    b[q + 3 * _STRIDE + j] = a[p + 3 + j * _STRIDE]


class Fourier:
    """The real Fourier transform by SciPy, whose threads sleep while they wait."""

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
