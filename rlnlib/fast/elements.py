"""K u of trilinear elements as compiled loops over the voxels of a CPU.

The same results as the array expressions beside which they are used (:mod:`rlnlib.discretizations`,
:mod:`rlnlib.equilibrium`), in less time: few numbers are read or written twice.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from rlnlib.elasticity import SQRT2
from rlnlib.fast import cores, memory
from rlnlib.fast.compiling import compiled

#: The mode of the corner values, as bits (x, y, z), that changes sign with each axis' mirror image.
_AXIS_BIT = (4, 2, 1)
#: The same without the bit of x: what the modes of component i in one class differ by.
_FLIP = (0, 2, 1)
#: Voxels of a plane that are worked on together, so that what lies between two loops stays in the first-level cache.
_STRIP = 256


def corner_modes(matrices: list[torch.Tensor]) -> np.ndarray:
    """Stiffnesses of an element in the basis of sums and differences of its corner values.

    Mode w of component i is sum_c (-1)^(w . c) u_ic over the corners c; it is odd or even under the three mirror
    images of the voxel, and an isotropic element couples only modes of one symmetry: eight 3 x 3 blocks remain of
    the 24 x 24 matrix.

    Args:
        matrices: P matrices (24, 24).

    Returns:
        (P, 8, 3, 3); block r couples the modes r ^ (4, 2, 1)[i] of the components i.

    Raises:
        ValueError: For the stiffness of an anisotropic material.
    """
    found = []
    for modes in all_corner_modes(matrices).reshape(-1, 3, 8, 3, 8):
        blocks = [
            [[modes[i, r ^ _AXIS_BIT[i], j, r ^ _AXIS_BIT[j]] for j in range(3)] for i in range(3)] for r in range(8)
        ]
        if not np.isclose(np.linalg.norm(blocks), np.linalg.norm(modes)):
            raise ValueError("The element's stiffness couples corner modes of different symmetry: it is not isotropic.")
        found.append(blocks)
    return np.array(found)


def all_corner_modes(matrices: Iterable[torch.Tensor]) -> np.ndarray:
    """Stiffnesses of an element in that basis, whatever its symmetry. Shape: P times (24, 24) -> (P, 24, 24)."""
    signs = np.array([[(-1.0) ** (w & c).bit_count() for c in range(8)] for w in range(8)])
    parts = np.stack([matrix.view(3, 8, 3, 8).numpy() for matrix in matrices])
    return np.einsum("wc,picjd,vd->piwjv", signs, parts, signs, optimize=True).reshape(-1, 24, 24) / 64


def nodal_forces(u: torch.Tensor, moduli: torch.Tensor, blocks: np.ndarray) -> torch.Tensor:
    """K u for voxels of the stiffness sum_p moduli_p blocks_p.

    Shape: u (B, 3, N1, N2, N3), moduli (B, P, N1, N2, N3), both contiguous; blocks (P, 8, 3, 3) -> like u.
    """
    return _by_planes(u, moduli, blocks, moduli.numel())


def nodal_forces_by_label(u: torch.Tensor, labels: torch.Tensor, matrices: np.ndarray) -> torch.Tensor:
    """K u for voxels of the stiffness ``matrices[label]``, see :func:`all_corner_modes`.

    Shape: u (B, 3, N1, N2, N3), labels (B, N1, N2, N3), both contiguous; matrices (P, 24, 24) -> like u.
    """
    return _by_planes(u, labels[:, None], matrices, 4 * labels.numel())  # of a voxel, four times as much work


def _by_planes(u, materials, matrices, work: int) -> torch.Tensor:
    """K u, planes shared out to the cores."""
    out = memory.empty_like(u)
    fields = u.numpy(), materials.numpy(), out.numpy()
    tables = matrices.astype(fields[0].dtype)
    cores.split(lambda *planes: _nodal_forces(*fields, tables, *planes), u.shape[2], work)
    return out


@compiled
def _nodal_forces(u, moduli, out, blocks, start, stop):
    n1, n, n3 = u.shape[2], u.shape[3] * u.shape[4], u.shape[4]
    u, out = u.reshape(len(u), 3, n1, n), out.reshape(len(u), 3, n1, n)
    moduli = moduli.reshape(*moduli.shape[:3], n)
    kind, strips = u.dtype, (n + _STRIP - 1) // _STRIP
    rows = np.empty((2, n + n3), kind)  # mode along z; the first row of the plane once more at its end
    here, there = np.empty((strips, 12 * _STRIP), kind), np.empty((strips, 12 * _STRIP), kind)
    plane, carry = np.empty(12 * _STRIP, kind), np.empty((strips, 12 * _STRIP), kind)
    near, after = np.empty((6, n), kind), np.empty((6, n + n3), kind)  # (component, mode along z)
    for cell in range(len(u)):
        carry[:] = 0
        _modes_of_plane(u[cell], (start - 1) % n1, rows, here, n3)
        # Slabs of voxels between planes x and x + 1; the first one only for what it adds to the plane after it.
        for x in range(start - 1, stop):
            _modes_of_plane(u[cell], (x + 1) % n1, rows, there, n3)
            for strip in range(strips):
                if blocks.ndim == 3:  # labels and a full matrix for each
                    _multiply_by_label(moduli[cell, 0, x % n1], blocks, here, there, plane, carry, strip)
                else:
                    for p in range(len(blocks)):
                        _multiply(moduli[cell, p, x % n1], blocks[p], here, there, plane, carry, strip, p > 0)
                _to_rows(plane, near, after, strip, n3)
            here, there = there, here
            if x >= start:
                _collect_along_rows(near, after, out[cell], x, n3)


# The modes along y and z of a plane of nodes stand strip by strip, and in each strip class by class: row 3 r + i has
# the mode r ^ _FLIP[i] of component i, in bits (y, z). A slab's blocks r and r + 4 couple the rows of class r of both
# its planes, so one loop goes from the modes of two planes of nodes to what the voxels between them add to each: no
# mode of a voxel is kept. Rows of a strip have a distance that the compiler knows; else it would not know that they do
# not overlap. Arrays and numbers of rows are handed on instead of slices: numba counts the references to each slice,
# which costs as much as the loop. Numbers go through max(..., 0), lest the compiler take them for places counted from
# the end, as Python counts -1: it makes no vectors then.


@compiled
def _row(i, mode):
    """Where in a strip a mode of component i begins; "& 3" tells the compiler that it is not before the first."""
    return (3 * ((mode ^ _FLIP[i]) & 3) + i) * _STRIP


@compiled
def _modes_of_plane(u, x, rows, modes, n3):
    """Sums and differences of each value and the next one of its row, then of neighbouring rows; all periodic."""
    n, n3 = u.shape[2], max(n3, 0)
    for i in range(3):
        flat, total, difference = u[i, x], rows[0], rows[1]
        for k in range(n - 1):
            total[k] = flat[k] + flat[k + 1]
            difference[k] = flat[k] - flat[k + 1]
        for k in range(n3 - 1, n, n3):
            total[k] = flat[k] + flat[k - n3 + 1]
            difference[k] = flat[k] - flat[k - n3 + 1]
        for c in range(2):
            for k in range(n3):
                rows[c, n + k] = rows[c, k]
            even, odd = _row(i, c), _row(i, c + 2)
            for strip in range(len(modes)):
                first = strip * _STRIP
                for k in range(min(_STRIP, n - first)):
                    modes[strip, even + k] = rows[c, first + k] + rows[c, first + n3 + k]
                    modes[strip, odd + k] = rows[c, first + k] - rows[c, first + n3 + k]


@compiled
def _multiply(modulus, blocks, here, there, plane, carry, strip, add):
    """Forces of the voxels of a slab. What they give to the plane of nodes behind them waits in ``carry``."""
    first = max(strip, 0) * _STRIP
    size = min(_STRIP, modulus.size - first)
    for r in range(4):
        u, v, w = 3 * r * _STRIP, (3 * r + 1) * _STRIP, (3 * r + 2) * _STRIP
        even, odd = _upper_half(blocks[r + 4]), _upper_half(blocks[r])  # of the modes of component x
        if add:
            for k in range(size):
                x, y, z = here[strip, u + k], here[strip, v + k], here[strip, w + k]
                p, q, s = there[strip, u + k], there[strip, v + k], there[strip, w + k]
                a, b, c, d, e, f = _forces(even, odd, modulus[first + k], x, y, z, p, q, s)
                plane[u + k] += a
                plane[v + k] += b
                plane[w + k] += c
                carry[strip, u + k] += d
                carry[strip, v + k] += e
                carry[strip, w + k] += f
        else:
            for k in range(size):
                x, y, z = here[strip, u + k], here[strip, v + k], here[strip, w + k]
                p, q, s = there[strip, u + k], there[strip, v + k], there[strip, w + k]
                a, b, c, d, e, f = _forces(even, odd, modulus[first + k], x, y, z, p, q, s)
                plane[u + k] = a + carry[strip, u + k]
                plane[v + k] = b + carry[strip, v + k]
                plane[w + k] = c + carry[strip, w + k]
                carry[strip, u + k] = d
                carry[strip, v + k] = e
                carry[strip, w + k] = f


@compiled
def _forces(even, odd, modulus, x, y, z, p, q, s):
    """What a mode of two planes of nodes, (x, y, z) and (p, q, s), makes at the first one, and at the second."""
    ex, oy, oz = _times(even, modulus, x + p, y - q, z - s)
    ox, ey, ez = _times(odd, modulus, x - p, y + q, z + s)
    return ex + ox, ey + oy, ez + oz, ex - ox, ey - oy, ez - oz


@compiled
def _upper_half(block):
    return block[0, 0], block[0, 1], block[0, 2], block[1, 1], block[1, 2], block[2, 2]


@compiled
def _times(block, modulus, x, y, z):
    """A symmetric matrix times a vector and a modulus."""
    a, b, c, d, e, f = block
    return modulus * (a * x + b * y + c * z), modulus * (b * x + d * y + e * z), modulus * (c * x + e * y + f * z)


@compiled
def _multiply_by_label(labels, matrices, here, there, plane, carry, strip):
    """The same with a full matrix for each label."""
    first = strip * _STRIP
    modes, force = np.empty(24, plane.dtype), np.empty(24, plane.dtype)
    for k in range(min(_STRIP, labels.size - first)):
        matrix = matrices[labels[first + k]]
        for i in range(3):
            for mode in range(4):
                row = _row(i, mode) + k
                modes[8 * i + mode] = here[strip, row] + there[strip, row]
                modes[8 * i + 4 + mode] = here[strip, row] - there[strip, row]
        force[:] = 0
        for i in range(24):
            for j in range(24):
                force[j] += matrix[i, j] * modes[i]
        for i in range(3):
            for mode in range(4):
                row, even, odd = _row(i, mode) + k, force[8 * i + mode], force[8 * i + 4 + mode]
                plane[row] = even + odd + carry[strip, row]
                carry[strip, row] = even - odd


@compiled
def _to_rows(plane, near, after, strip, n3):
    """Back to rows of nodes: the voxels after a node along y give even + odd, those before it even - odd."""
    n, first, n3 = near.shape[1], max(strip, 0) * _STRIP, max(n3, 0)
    for i in range(3):
        for c in range(2):
            even, odd = _row(i, c), _row(i, c + 2)
            for k in range(min(_STRIP, n - first)):
                near[2 * i + c, first + k] = plane[even + k] + plane[odd + k]
                after[2 * i + c, first + n3 + k] = plane[even + k] - plane[odd + k]


@compiled
def _collect_along_rows(near, after, out, x, n3):
    """The sum over rows; then the same along them, where the first node follows the last."""
    n = near.shape[1]
    for i in range(3):
        e, o, flat = 2 * i, 2 * i + 1, out[i, x]
        for j in (e, o):
            for k in range(n3):
                after[j, k] = after[j, n + k]
        for k in range(n - 1):
            even, odd = near[e, k] + after[e, k], near[o, k] + after[o, k]
            flat[k + 1] = near[e, k + 1] + after[e, k + 1] + near[o, k + 1] + after[o, k + 1] + even - odd
        for k in range(0, n, n3):
            last = k + n3 - 1
            even, odd = near[e, last] + after[e, last], near[o, last] + after[o, last]
            flat[k] = near[e, k] + after[e, k] + near[o, k] + after[o, k] + even - odd


def mean_strain(u: torch.Tensor, spacing) -> torch.Tensor:
    """Voxel means of the strain of a nodal displacement. Shape: (B, 3, N...), contiguous -> (B, 6, N...)."""
    strain = u.new_empty(len(u), 6, *u.shape[2:])
    slopes = 0.25 / np.array(spacing, dtype=u.numpy().dtype)
    _mean_strain(*(field.view(*field.shape[:3], -1).numpy() for field in (u, strain)), slopes, u.shape[4])
    return strain


@compiled
def _mean_strain(u, strain, slopes, n3):
    n1, n = u.shape[2:]
    strips = (n + _STRIP - 1) // _STRIP
    rows = np.empty((2, n + n3), u.dtype)
    here, there = np.empty((strips, 12 * _STRIP), u.dtype), np.empty((strips, 12 * _STRIP), u.dtype)
    signs = np.ones(3, u.dtype)
    signs[0] = -1  # the mode with a difference along x is that of the plane here less that of the plane there
    for cell in range(len(u)):
        _modes_of_plane(u[cell], 0, rows, here, n3)
        for x in range(n1):
            _modes_of_plane(u[cell], (x + 1) % n1, rows, there, n3)
            for strip in range(strips):
                _strain_of_modes(here, there, strain[cell], x, slopes, signs, strip)
            here, there = there, here


@compiled
def _strain_of_modes(here, there, strain, x, slopes, signs, strip):
    """du_i/dx_j is -1/4 of the mode of u_i with a difference along j and sums along the other axes, over h_j."""
    n, first = strain.shape[2], strip * _STRIP
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        a, b, c, p, q, r = slopes[i], slopes[j], slopes[k], signs[i], signs[j], signs[k]
        uj, uk = _row(j, _FLIP[k]), _row(k, _FLIP[j])
        for m in range(min(_STRIP, n - first)):
            normal = here[strip, i * _STRIP + m] + p * there[strip, i * _STRIP + m]
            shear = b * (here[strip, uk + m] + q * there[strip, uk + m])
            shear += c * (here[strip, uj + m] + r * there[strip, uj + m])
            strain[i, x, first + m] = -a * normal
            strain[3 + i, x, first + m] = -shear / SQRT2
