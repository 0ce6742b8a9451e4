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
    out = memory.empty_like(u)
    *fields, forces = (field.view(*field.shape[:3], -1).numpy() for field in (u, moduli, out))
    blocks = blocks.astype(forces.dtype)
    cores.split(lambda *planes: _nodal_forces(*fields, forces, blocks, u.shape[4], *planes), u.shape[2], moduli.numel())
    return out


def nodal_forces_by_label(u: torch.Tensor, labels: torch.Tensor, matrices: np.ndarray) -> torch.Tensor:
    """K u for voxels of the stiffness ``matrices[label]``, see :func:`all_corner_modes`.

    Shape: u (B, 3, N1, N2, N3), labels (B, N1, N2, N3), both contiguous; matrices (P, 24, 24) -> like u.
    """
    out = memory.empty_like(u)
    nodes, forces = (field.view(*field.shape[:3], -1).numpy() for field in (u, out))
    voxels = labels.view(len(labels), 1, labels.shape[1], -1).numpy()
    tables = matrices.astype(forces.dtype)
    work = 4 * labels.numel()  # as much as that of isotropic voxels, times this
    cores.split(lambda *planes: _nodal_forces(nodes, voxels, forces, tables, u.shape[4], *planes), u.shape[2], work)
    return out


@compiled
def _nodal_forces(u, moduli, out, blocks, n3, start, stop):
    n1, n = u.shape[2:]
    kind = u.dtype
    here, there = np.empty((6, n), kind), np.empty((6, n), kind)  # (component, mode along z)
    slab = np.empty((2, n + n3), kind)  # mode along x; the first row of the plane once more at its end
    modes, forces = np.empty((24, n), kind), np.empty((24, n), kind)  # (component, mode)
    carry, plane = np.empty((6, n), kind), np.empty((6, n), kind)
    for cell in range(len(u)):
        carry[:] = 0
        _sums_along_rows(u[cell], (start - 1) % n1, here, n3)
        # Slabs of voxels between planes x and x + 1; the first one only for what it adds to the plane after it.
        for x in range(start - 1, stop):
            _sums_along_rows(u[cell], (x + 1) % n1, there, n3)
            _to_modes(here, there, slab, modes, n3)
            here, there = there, here
            if blocks.ndim == 3:  # labels and a full matrix for each
                _multiply_by_label(moduli[cell, 0, x % n1], blocks, modes, forces)
                _to_planes(forces, slab, plane, carry, n3)
            elif moduli.shape[1] == 1:
                _multiply_in_place(moduli[cell, 0, x % n1], blocks[0], modes)
                _to_planes(modes, slab, plane, carry, n3)
            else:
                for p in range(moduli.shape[1]):
                    _multiply(moduli[cell, p, x % n1], blocks[p], modes, forces, p > 0)
                _to_planes(forces, slab, plane, carry, n3)
            if x >= start:
                _collect_along_rows(plane, out[cell], x, n3)


# One array and row numbers instead of slices of it: numba counts the references to each slice, which costs as much
# as the loop over a plane. One array written in each loop: else the compiler does not know that rows do not overlap.


@compiled
def _sums_along_rows(u, x, modes, n3):
    """Sum and difference of each value and the next one of its row, the first one following the last."""
    for i in range(3):
        flat, total, difference = u[i, x], modes[2 * i], modes[2 * i + 1]
        for k in range(flat.size - 1):
            total[k] = flat[k] + flat[k + 1]
            difference[k] = flat[k] - flat[k + 1]
        for k in range(n3 - 1, flat.size, n3):
            total[k] = flat[k] + flat[k - n3 + 1]
            difference[k] = flat[k] - flat[k - n3 + 1]


@compiled
def _to_modes(here, there, slab, modes, n3):
    """Sums and differences over the two planes of a slab, then over neighbouring rows."""
    n = here.shape[1]
    for j in range(6):
        for k in range(n):
            slab[0, k] = here[j, k] + there[j, k]
        for k in range(n):
            slab[1, k] = here[j, k] - there[j, k]
        for a in range(2):
            for k in range(n3):
                slab[a, n + k] = slab[a, k]
            even, after = j // 2 * 8 + 4 * a + j % 2, slab[a, n3:]
            for k in range(n):
                modes[even, k] = slab[a, k] + after[k]
            for k in range(n):
                modes[even + 2, k] = slab[a, k] - after[k]


@compiled
def _multiply_in_place(modulus, blocks, modes):
    """What three modes give goes to the same three modes, so one loop reads and writes each of them once."""
    for r in range(8):
        block, u, v, w = blocks[r], modes[r ^ 4], modes[8 + (r ^ 2)], modes[16 + (r ^ 1)]
        a, b, c = block[0, 0], block[0, 1], block[0, 2]
        d, e, f = block[1, 0], block[1, 1], block[1, 2]
        g, h, i = block[2, 0], block[2, 1], block[2, 2]
        for k in range(modulus.size):
            m, x, y, z = modulus[k], u[k], v[k], w[k]
            u[k] = m * (a * x + b * y + c * z)
            v[k] = m * (d * x + e * y + f * z)
            w[k] = m * (g * x + h * y + i * z)


@compiled
def _multiply(modulus, blocks, modes, forces, add):
    for r in range(8):
        u, v, w = r ^ 4, 8 + (r ^ 2), 16 + (r ^ 1)
        for i in range(3):
            a, b, c, f = blocks[r, i, 0], blocks[r, i, 1], blocks[r, i, 2], 8 * i + (r ^ (4 >> i))
            if add:
                for k in range(modulus.size):
                    forces[f, k] += modulus[k] * (a * modes[u, k] + b * modes[v, k] + c * modes[w, k])
            else:
                for k in range(modulus.size):
                    forces[f, k] = modulus[k] * (a * modes[u, k] + b * modes[v, k] + c * modes[w, k])


@compiled
def _multiply_by_label(labels, matrices, modes, forces):
    force = np.empty(24, modes.dtype)
    for k in range(labels.size):
        matrix = matrices[labels[k]]
        force[:] = 0
        for i in range(24):
            for j in range(24):
                force[j] += matrix[i, j] * modes[i, k]
        for j in range(24):
            forces[j, k] = force[j]


@compiled
def _to_planes(forces, slab, planes, carry, n3):
    """Back to the nodes along y and x: the voxels after a node give even + odd, those before it even - odd.

    What a slab gives to the plane of nodes behind it waits in ``carry``.
    """
    n = planes.shape[1]
    for j in range(6):
        for a in range(2):
            row = j // 2 * 8 + 4 * a + j % 2
            even, odd, after = forces[row], forces[row + 2], slab[a, n3:n]
            for k in range(n3):
                slab[a, k] = even[k] + odd[k] + even[k + n - n3] - odd[k + n - n3]
            even_after, odd_after = even[n3:], odd[n3:]
            for k in range(after.size):
                after[k] = even_after[k] + odd_after[k] + even[k] - odd[k]
        for k in range(n):
            planes[j, k] = slab[0, k] + slab[1, k] + carry[j, k]
        for k in range(n):
            carry[j, k] = slab[0, k] - slab[1, k]


@compiled
def _collect_along_rows(planes, out, x, n3):
    """The same along rows, where the first node follows the last."""
    for i in range(3):
        even, odd, flat = planes[2 * i], planes[2 * i + 1], out[i, x]
        for k in range(flat.size - 1):
            flat[k + 1] = even[k + 1] + odd[k + 1] + even[k] - odd[k]
        for k in range(0, flat.size, n3):
            flat[k] = even[k] + odd[k] + even[k + n3 - 1] - odd[k + n3 - 1]


def mean_strain(u: torch.Tensor, spacing) -> torch.Tensor:
    """Voxel means of the strain of a nodal displacement. Shape: (B, 3, N...), contiguous -> (B, 6, N...)."""
    strain = u.new_empty(len(u), 6, *u.shape[2:])
    slopes = 0.25 / np.array(spacing, dtype=u.numpy().dtype)
    _mean_strain(*(field.view(*field.shape[:3], -1).numpy() for field in (u, strain)), slopes, u.shape[4])
    return strain


@compiled
def _mean_strain(u, strain, slopes, n3):
    n1, n = u.shape[2:]
    here, there = np.empty((6, n), u.dtype), np.empty((6, n), u.dtype)
    slab, modes = np.empty((2, n + n3), u.dtype), np.empty((24, n), u.dtype)
    for cell in range(len(u)):
        _sums_along_rows(u[cell], 0, here, n3)
        for x in range(n1):
            _sums_along_rows(u[cell], (x + 1) % n1, there, n3)
            _to_modes(here, there, slab, modes, n3)
            here, there = there, here
            # du_i/dx_j is -1/4 of the mode of u_i with a difference along j and sums along the other axes, over h_j.
            for i in range(3):
                normal, a = strain[cell, i, x], slopes[i]
                j, k = (i + 1) % 3, (i + 2) % 3
                shear, dj, dk = strain[cell, 3 + i, x], modes[8 * k + (4 >> j)], modes[8 * j + (4 >> k)]
                aj, ak = slopes[j], slopes[k]
                for m in range(n):
                    normal[m] = -a * modes[8 * i + (4 >> i), m]
                for m in range(n):
                    shear[m] = -(aj * dj[m] + ak * dk[m]) / SQRT2
