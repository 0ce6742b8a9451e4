"""K u and the vector updates of conjugate gradients as compiled loops over the voxels of a CPU.

The same results as the array expressions beside which they are used (:mod:`rlnlib.discretizations`,
:mod:`rlnlib.green`, :mod:`rlnlib.conjugate_gradient`), in less time: few numbers are read or written twice.
"""

from __future__ import annotations

import warnings
from typing import Any

import numba
import numpy as np
import torch

from rlnlib.elasticity import SQRT2
from rlnlib.fast import cores


def _warn_of_no_cache(reason: Exception) -> None:
    warnings.warn(
        f"numba cannot keep the compiled loops ({reason}). They are compiled again in each process, which takes some "
        "seconds. Set NUMBA_CACHE_DIR to a folder that can be written.",
        RuntimeWarning,
        stacklevel=2,
    )


class _Compiler:
    """``numba.njit`` with a cache on disk, and without one where there is no place for it."""

    cached = True  # of all functions, so that one warning says it

    def __init__(self, fastmath: set[str]):
        self.options: dict[str, Any] = {"nogil": True, "fastmath": fastmath}

    def __call__(self, function) -> Any:
        if _Compiler.cached:
            try:
                compiled = numba.njit(cache=True, **self.options)(function)
            except RuntimeError as error:  # "no locator available": neither this folder nor the user's can be written
                self.give_up(error)
            else:
                save = compiled._cache.save_overload

                def save_if_possible(*overload):
                    try:
                        save(*overload)
                    except OSError as error:  # a full disk, or a quota
                        self.give_up(error)

                compiled._cache.save_overload = save_if_possible
                return compiled
        return numba.njit(**self.options)(function)

    @staticmethod
    def give_up(reason: Exception) -> None:
        if _Compiler.cached:
            _Compiler.cached = False
            _warn_of_no_cache(reason)


_compile = _Compiler({"contract"})
#: Products and sums rounded one by one, as torch does, so that the plain twin has the same bits.
_compile_exact = _Compiler(set())
#: Sums in an order that suits the processor's vectors; the same order at each call.
_compile_sum = _Compiler({"contract", "reassoc"})

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
    signs = np.array([[(-1.0) ** (w & c).bit_count() for c in range(8)] for w in range(8)])
    found = []
    for matrix in matrices:
        modes = np.einsum("wc,icjd,vd->iwjv", signs, matrix.view(3, 8, 3, 8).numpy(), signs) / 64
        blocks = [
            [[modes[i, r ^ _AXIS_BIT[i], j, r ^ _AXIS_BIT[j]] for j in range(3)] for i in range(3)] for r in range(8)
        ]
        if not np.isclose(np.linalg.norm(blocks), np.linalg.norm(modes)):
            raise ValueError("The element's stiffness couples corner modes of different symmetry: it is not isotropic.")
        found.append(blocks)
    return np.array(found)


def nodal_forces(u: torch.Tensor, moduli: torch.Tensor, blocks: np.ndarray) -> torch.Tensor:
    """K u for voxels of the stiffness sum_p moduli_p blocks_p.

    Shape: u (B, 3, N1, N2, N3), moduli (B, P, N1, N2, N3), both contiguous; blocks (P, 8, 3, 3) -> like u.
    """
    out = torch.empty_like(u)
    *fields, forces = (field.view(*field.shape[:3], -1).numpy() for field in (u, moduli, out))
    blocks = blocks.astype(forces.dtype)
    cores.split(lambda *planes: _nodal_forces(*fields, forces, blocks, u.shape[4], *planes), u.shape[2], moduli.numel())
    return out


@_compile
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
            for p in range(moduli.shape[1]):
                _multiply(moduli[cell, p, x % n1], blocks[p], modes, forces, p > 0)
            _to_planes(forces, slab, plane, carry, n3)
            if x >= start:
                _collect_along_rows(plane, out[cell], x, n3)


# One array and row numbers instead of slices of it: numba counts the references to each slice, which costs as much
# as the loop over a plane. One array written in each loop: else the compiler does not know that rows do not overlap.


@_compile
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


@_compile
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


@_compile
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


@_compile
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


@_compile
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


@_compile
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


def times_by_frequency(matrices: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
    """The product of a symmetric 3 x 3 matrix and a vector at each point, contiguous.

    Shape: (3, 3, F...), (B, 3, F...) -> (B, 3, F...).
    """
    out = torch.empty_like(spectrum)
    _times_by_frequency(*(field.view(*field.shape[:2], -1).numpy() for field in (matrices, spectrum, out)))
    return out


@_compile
def _times_by_frequency(m, v, out):
    for cell in range(len(v)):
        v0, v1, v2 = v[cell, 0], v[cell, 1], v[cell, 2]
        for i in range(3):
            m0, m1, m2, w = m[i, 0], m[i, 1], m[i, 2], out[cell, i]
            for k in range(w.size):
                w[k] = m0[k] * v0[k] + m1[k] * v1[k] + m2[k] * v2[k]


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Scalar product of each cell's fields, summed in float64. Shape: (B, ...) twice -> (B,), the fields' dtype."""
    sums = np.empty(len(a))
    _inner(a.view(len(a), -1).numpy(), b.view(len(b), -1).numpy(), sums)
    return torch.from_numpy(sums).to(a.dtype)


@_compile_sum
def _inner(a, b, sums):
    for cell in range(len(a)):
        x, y, total = a[cell], b[cell], 0.0
        for k in range(x.size):
            total += x[k] * y[k]
        sums[cell] = total


def advance(u, residual, step, direction, image) -> torch.Tensor:
    """u += step direction, residual -= step image, in place; returns the residual's norm. Shape: step (B,) -> (B,)."""
    sums = np.empty(len(u))
    fields = (field.view(len(u), -1).numpy() for field in (u, residual, direction, image))
    _advance(*fields, step.numpy(), sums)
    return torch.from_numpy(np.sqrt(sums))


@_compile_sum
def _advance(u, residual, direction, image, step, sums):
    for cell in range(len(u)):
        x, r, p, q, s, total = u[cell], residual[cell], direction[cell], image[cell], step[cell], 0.0
        for k in range(x.size):
            x[k] += s * p[k]
        for k in range(x.size):
            r[k] -= s * q[k]
            total += r[k] * r[k]
        sums[cell] = total


def turn(direction, factor, z) -> None:
    """direction = factor direction + z, in place. Shape: factor (B,), fields (B, ...), contiguous."""
    _turn(direction.view(len(z), -1).numpy(), factor.numpy(), z.view(len(z), -1).numpy())


@_compile_exact
def _turn(direction, factor, z):
    for cell in range(len(z)):
        p, s, q = direction[cell], factor[cell], z[cell]
        for k in range(p.size):
            p[k] = s * p[k] + q[k]
