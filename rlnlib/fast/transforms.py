"""Transforms over the axes of space for CPUs; their plain twin is :class:`rlnlib.green.Fourier`.

Neither result depends on the number of threads, as that of torch's inverse real transform does: it would change data
sets in the last bit.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import scipy.fft
import torch

from rlnlib.fast import cores, memory
from rlnlib.fast._vectors import LANES, load, spread, store, transpose, zeros
from rlnlib.fast.compiling import compiled, inlined

#: Longest axis for dense transforms.
DENSE = 128
#: Vectors of columns that are transformed together, so that what lies between two steps stays in the first-level cache.
_STRIP = 8
#: From one row of such a strip to the next: no power of two, by which all would want the same places of the cache.
_STRIDE = (_STRIP + 1) * LANES


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
            self.axes[field.dtype] = [
                (matrices.astype(kind), *places) for matrices, *places in self.axes[torch.float64]
            ]
        axes = [self.axes[field.dtype][axis] for axis in order]
        out = memory.empty((*field.shape[:3], *field.shape[:2:-1]), field.dtype)
        source, target = (part.view(-1).numpy() for part in (field.contiguous(), out))
        work = functools.partial(_hartley, source, target, tuple(field.shape[2:]), *axes, order)
        cores.split(work, 3 * len(field), field.numel())
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
    n/2 - i parts even frequencies from odd ones: a quarter. The even ones are those of n/2 values, and are parted
    again. Frequencies k and n - k are the sum and the difference of the products with cosines and with sines.

    Returns:
        For every four frequencies k, one after the other, the matrices of cosines and of sines, side by side. Of each,
        the first value with cosines, the first one with sines, how many; where its matrix begins; the places k, n - k.
        Last, :func:`_mirrors`.
    """
    half, step = n // 2, 1
    folds = [(i, n - i) for i in range(1, n - half)]  # see :func:`_fold`
    classes = []  # frequencies, values with cosines, first one with sines
    stop = half + 1
    for h in _mirrors(n):
        middle = (h + 1) // 2
        folds += [(i, h - i) for i in range(middle)] + [(half + h - i, half + i) for i in range(1, middle)]
        classes.append((range(step, half + 1, 2 * step), h // 2 + 1, h + 1, half + middle))
        stop, step = h // 2 + 1, 2 * step
    classes.append((range(0, half + 1, step), 0, stop, half + 1))
    fold = np.eye(n)
    for p, q in folds:
        fold[[p, q]] = fold[p] + fold[q], fold[p] - fold[q]
    unfold = fold.T / (fold**2).sum(1) / math.sqrt(n)
    angle = 2 * math.pi / n * (np.outer(np.arange(half + 1), np.arange(n)) % n)
    cosines, sines = np.cos(angle) @ unfold, np.sin(angle) @ unfold
    matrices: list[np.ndarray] = []
    places = []
    for frequencies, first, stop, other in classes:
        count = stop - first
        other = min(other, n - count)  # there are fewer sines; the rest of their matrix is 0
        for i in range(0, len(frequencies), 4):
            k = np.resize(frequencies[i : i + 4], 4)
            matrix = np.concatenate([cosines[k, first:stop], sines[k, other : other + count]]).T
            places.append([first, other, count, sum(m.size for m in matrices), *k, *-k % n])
            matrices.append(np.where(abs(matrix) > 1e-12, matrix, 0).ravel())  # what is less is rounding
    return np.concatenate(matrices), np.array(places), np.array(_mirrors(n), int)


def _mirrors(n: int) -> list[int]:
    """The h whose values i and h - i are folded: n / 2, and as often half of that as it is even and large enough."""
    found = [n // 2] if n % 2 == 0 else []
    while found and found[-1] % 2 == 0 and found[-1] > 12:
        found.append(found[-1] // 2)
    return found


@compiled
def _hartley(field, out, shape, along_x, along_y, along_z, order, start, stop):
    """Transform some vector components. Shape: (3 B, N1, N2, N3) -> (3 B, N1, N3, N2), both flat."""
    n1, n2, n3 = shape
    row_y, row_z = (n2 // LANES + 2) * LANES, (n3 // LANES + 2) * LANES
    a = _aligned(max(n1, n2, n3) * _STRIDE, field)
    b, c = _aligned(row_y * row_z, field), _aligned(row_y * row_z, field)
    for f in range(start, stop):
        first = f * n1 * n2 * n3
        _transform(field, first, n2 * n3, out, first, n2 * n3, n2 * n3, n1, along_x, f % 3 == order[0], a)
        for x in range(n1):
            plane = first + x * n2 * n3
            _transform(out, plane, n3, b, 0, row_z, n3, n2, along_y, f % 3 == order[1], a)
            for i in range(0, n2, LANES):
                for k in range(0, n3, LANES):
                    transpose(b, i * row_z + k, row_z, c, k * row_y + i, row_y)
            _transform(c, 0, row_y, out, plane, n2, n2, n3, along_z, f % 3 == order[2], a)


@compiled
def _aligned(size, like):
    """Zeros from where a line of the cache begins: no vector of a row lies in two of them."""
    found = np.zeros(size + 64, like.dtype)
    first = (-found.ctypes.data % 64) // found.itemsize
    return found[first : first + size]


@compiled
def _transform(source, start, row, target, to, to_row, width, n, axis, mirrored, a):
    """Transform columns of n values, a row apart, from a place of one array to a place of another.

    Where a row is shorter than a vector, what is read after it is of no use, and must not be written. The second place
    of the strip has room for it.
    """
    wide = max(width, LANES)
    if start + (n - 1) * row + wide > len(source):
        _copy(source, start, row, a, LANES, _STRIDE, width, n)
        source, start, row = a, LANES, _STRIDE
    narrow = to_row < LANES
    there, place, step = (a, LANES, _STRIDE) if narrow else (target, to, to_row)
    for first in range(0, wide, _STRIP * LANES):
        _fold(source, start, row, first, wide, n, axis, a)
        _multiply(a, there, place, step, first, wide, axis, mirrored)
    if narrow:
        _copy(a, LANES, _STRIDE, target, to, to_row, width, n)


@compiled
def _copy(source, start, row, target, to, to_row, width, n):
    """Rows shorter than a vector: by vectors, as the next row overwrites what is too much; the last ones by numbers."""
    for i in range(n):
        p, q = start + i * row, to + i * to_row
        if p + LANES <= len(source) and q + LANES <= to + n * to_row:
            store(target, q, load(source, p))
        else:
            for k in range(width):
                target[q + k] = source[p + k]


@compiled
def _column(first, k, width):
    """Where vector k of a strip is. The last one ends with the row, so it repeats some columns of the one before."""
    return min(first + k * LANES, width - LANES)


@compiled
def _strip(first, width):
    """The vectors of a strip."""
    return min(_STRIP, (width - first + LANES - 1) // LANES)


@inlined
def _fold(source, start, row, first, width, n, axis, a):
    """Sums and differences of the values i and n - i of a strip; then those of i and h - i among what they left."""
    half, strip = n // 2, _strip(first, width)
    for v in range(strip):
        place, p = start + _column(first, v, width), v * LANES
        store(a, p, load(source, place))
        if n % 2 == 0:
            store(a, p + half * _STRIDE, load(source, place + half * row))
    for i in range(1, n - half):
        for v in range(strip):
            place, p = start + _column(first, v, width), v * LANES
            x, y = load(source, place + i * row), load(source, place + (n - i) * row)
            store(a, p + i * _STRIDE, x + y)
            store(a, p + (n - i) * _STRIDE, x - y)
    for h in axis[2]:
        for i in range((h + 1) // 2):
            _mirror(a, i * _STRIDE, (h - i) * _STRIDE, strip)
        for i in range(1, (h + 1) // 2):
            _mirror(a, (half + h - i) * _STRIDE, (half + i) * _STRIDE, strip)


@inlined
def _mirror(a, p, q, strip):
    for v in range(strip):
        x, y = load(a, p + v * LANES), load(a, q + v * LANES)
        store(a, p + v * LANES, x + y)
        store(a, q + v * LANES, x - y)


@inlined
def _multiply(a, target, to, to_row, first, width, axis, mirrored):
    """Products with cosines and with sines; their sums and differences are the transform, mirrored or not."""
    (matrix, places, _), strip = axis, _strip(first, width)
    for i in range(len(places)):
        count, m = places[i, 2], places[i, 3]
        for v in range(0, strip, 2):
            p, q = places[i, 0] * _STRIDE + v * LANES, places[i, 1] * _STRIDE + v * LANES
            if v + 1 < strip:  # each number of the matrices serves two vectors
                c, e = _products(a, p, p + LANES, matrix, m, m, count)
                z, o = _products(a, q, q + LANES, matrix, m + 4, m + 4, count)
                _unfold(target, to + _column(first, v, width), to_row, places, i, mirrored, c, z)
                _unfold(target, to + _column(first, v + 1, width), to_row, places, i, mirrored, e, o)
            else:
                c, z = _products(a, p, q, matrix, m, m + 4, count)
                _unfold(target, to + _column(first, v, width), to_row, places, i, mirrored, c, z)


@inlined
def _products(a, p, q, matrix, m, k, count):
    """Four sums of the vectors from p on, and of those from q on, with numbers from m and from k on."""
    c0 = c1 = c2 = c3 = z0 = z1 = z2 = z3 = zeros(a)
    for _ in range(count):
        x, y = load(a, p), load(a, q)
        c0 += spread(matrix, m) * x
        z0 += spread(matrix, k) * y
        c1 += spread(matrix, m + 1) * x
        z1 += spread(matrix, k + 1) * y
        c2 += spread(matrix, m + 2) * x
        z2 += spread(matrix, k + 2) * y
        c3 += spread(matrix, m + 3) * x
        z3 += spread(matrix, k + 3) * y
        p, q, m, k = p + _STRIDE, q + _STRIDE, m + 8, k + 8
    return (c0, c1, c2, c3), (z0, z1, z2, z3)


@inlined
def _unfold(target, place, row, places, i, mirrored, c, z):
    s, d = (8, 4) if mirrored else (4, 8)
    for j in range(4):
        store(target, place + places[i, s + j] * row, c[j] + z[j])
        store(target, place + places[i, d + j] * row, c[j] - z[j])


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
