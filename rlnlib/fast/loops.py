"""The product by frequency and the vector updates of conjugate gradients as compiled loops on a CPU.

The same results as the array expressions beside which they are used (:mod:`rlnlib.green`,
:mod:`rlnlib.conjugate_gradient`), in less time: few numbers are read or written twice.
"""

from __future__ import annotations

import numpy as np
import torch

from rlnlib.elasticity import MANDEL_ROWS
from rlnlib.fast import memory
from rlnlib.fast.compiling import compiled, compiled_exact, compiled_sum

_ROWS = MANDEL_ROWS
#: Numbers of each row that are worked on together, so that they stay in the first-level cache.
_STRIP = 1024


def times_by_frequency(matrices: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
    """The product of a symmetric 3 x 3 matrix and a vector at each point, contiguous.

    Args:
        matrices: Their components in Mandel order, (6, F...).
        spectrum: (B, 3, F...); with twice as many numbers in a row where they are pairs of a real and an imaginary
            part, which one matrix multiplies.

    Returns:
        Like ``spectrum``.
    """
    out = memory.empty_like(spectrum)
    m, v, w = matrices.numpy(), spectrum.numpy(), out.numpy()
    (_times_by_frequency if v.shape[-1] == m.shape[-1] else _times_pairs_by_frequency)(m, v, w)
    return out


@compiled
def _times_by_frequency(m, v, out):
    m, v, out = m.reshape(6, -1), v.reshape(len(v), 3, -1), out.reshape(len(v), 3, -1)
    for cell in range(len(v)):
        for first in range(0, m.shape[1], _STRIP):
            last = min(first + _STRIP, m.shape[1])
            v0, v1, v2 = v[cell, 0, first:last], v[cell, 1, first:last], v[cell, 2, first:last]
            for i in range(3):
                m0, m1, m2 = (m[_ROWS[i][0], first:last], m[_ROWS[i][1], first:last], m[_ROWS[i][2], first:last])
                w = out[cell, i, first:last]
                for k in range(w.size):
                    w[k] = m0[k] * v0[k] + m1[k] * v1[k] + m2[k] * v2[k]


@compiled
def _times_pairs_by_frequency(m, v, out):
    m, v, out = m.reshape(6, -1), v.reshape(len(v), 3, -1), out.reshape(len(v), 3, -1)
    for cell in range(len(v)):
        for first in range(0, m.shape[1], _STRIP):
            last = min(first + _STRIP, m.shape[1])
            a, b = 2 * first, 2 * last
            v0, v1, v2 = v[cell, 0, a:b], v[cell, 1, a:b], v[cell, 2, a:b]
            for i in range(3):
                m0, m1, m2 = (m[_ROWS[i][0], first:last], m[_ROWS[i][1], first:last], m[_ROWS[i][2], first:last])
                w = out[cell, i, a:b]
                for k in range(m0.size):
                    w[2 * k] = m0[k] * v0[2 * k] + m1[k] * v1[2 * k] + m2[k] * v2[2 * k]
                    w[2 * k + 1] = m0[k] * v0[2 * k + 1] + m1[k] * v1[2 * k + 1] + m2[k] * v2[2 * k + 1]


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Scalar product of each cell's fields, summed in float64. Shape: (B, ...) twice -> (B,), the fields' dtype."""
    x = a.numpy()
    return torch.from_numpy(_inner(x, b.numpy()).astype(x.dtype))


@compiled_sum
def _inner(a, b):
    sums = np.zeros(len(a))
    for cell in range(len(a)):
        x, y, total = a[cell].reshape(-1), b[cell].reshape(-1), 0.0
        for k in range(x.size):
            total += x[k] * y[k]
        sums[cell] = total
    return sums


def advance(u, residual, step, direction, image) -> torch.Tensor:
    """u += step direction, residual -= step image, in place; returns the residual's norm. Shape: step (B,) -> (B,)."""
    return torch.from_numpy(_advance(u.numpy(), residual.numpy(), direction.numpy(), image.numpy(), step.numpy()))


@compiled_sum
def _advance(u, residual, direction, image, step):
    norms = np.zeros(len(u))
    for cell in range(len(u)):
        x, r, s, total = u[cell].reshape(-1), residual[cell].reshape(-1), step[cell], 0.0
        p, q = direction[cell].reshape(-1), image[cell].reshape(-1)
        for k in range(x.size):
            x[k] += s * p[k]
        for k in range(x.size):
            r[k] -= s * q[k]
            total += r[k] * r[k]
        norms[cell] = np.sqrt(total)
    return norms


def turn(direction, factor, z) -> None:
    """direction = factor direction + z, in place. Shape: factor (B,), fields (B, ...), contiguous."""
    _turn(direction.numpy(), factor.numpy(), z.numpy())


@compiled_exact
def _turn(direction, factor, z):
    for cell in range(len(z)):
        p, s, q = direction[cell].reshape(-1), factor[cell], z[cell].reshape(-1)
        for k in range(p.size):
            p[k] = s * p[k] + q[k]
