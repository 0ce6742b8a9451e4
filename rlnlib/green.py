r"""Gamma^0 = B (B^T C^0 B)^-1 B^T: the Green operator of a homogeneous reference medium on a periodic voxel grid.

B is the choice of a discretization (:mod:`rlnlib.discretizations`). The matrix B^T C^0 B is the same at every node, so
a Fourier transform makes it a 3 x 3 matrix for each frequency.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from rlnlib import _checks, discretizations, elasticity, fast
from rlnlib.discretizations import DISCRETIZATIONS

__all__ = ["DISCRETIZATIONS", "Fourier", "GreenOperator"]

#: Voxels whose frequencies are worked on together when an operator is made.
_SLAB = 2**18


class GreenOperator:
    """Gamma^0 of an isotropic reference medium with the moduli (``young``, ``poisson``).

    Strains and stresses have the shape (B, G, 6, N1, N2, N3), displacements and nodal forces (B, 3, N1, N2, N3).

    Args:
        shape: Voxels by axis (N1, N2, N3), at least 2 along each.
        discretization: A name of :data:`rlnlib.discretizations.DISCRETIZATIONS`.
        young: Young's modulus of the reference medium.
        poisson: Its Poisson ratio.
        dtype: Precision.
        device: Where it works.
        spacing: Edges of a voxel.

    Raises:
        ValueError: For an unknown discretization, a modulus or spacing out of range, or an axis shorter than 2.
    """

    def __init__(
        self,
        shape,
        discretization: str = "bbar",
        young: float = 1.0,
        poisson: float = 0.3,
        dtype: torch.dtype = torch.float64,
        device=None,
        spacing=(1.0, 1.0, 1.0),
    ):
        self.shape = _checks.grid_shape("shape", shape)
        _checks.memory(f"The Green operator of {self.shape} voxels", 2 * 6 * 8 * math.prod(self.shape))
        self.spacing = _checks.as_spacing(spacing)
        self.discretization = discretizations.make(discretization, self.shape, self.spacing)
        self.lame = elasticity.lame_parameters(young, poisson)
        self.device = _checks.as_device(device)
        self._fast = fast.use(self.device)
        self.transform: Any = fast.transforms.choose(self.shape) if self._fast else Fourier(self.shape)
        first, *others = discretizations.frequencies(self.shape, self.spacing)
        parts = []  # slab by slab: in float64, the matrices of a large grid are more than all else that a solve needs
        for slab in first.split(max(1, _SLAB // math.prod(self.shape[1:]))):
            inverse = _inverse_where_regular(self._symbol([slab, *others]))
            parts.append(self.transform.spread(inverse.to(_checks.floating(dtype))))
        self.inverse = torch.cat(parts, 1).to(self.device)  # the G of eq. 5, symmetric: (6, F...), in Mandel order

    @property
    def dtype(self) -> torch.dtype:
        return self.inverse.dtype

    @property
    def integration_points(self) -> int:
        """G, the number of integration points of a voxel."""
        return self.discretization.integration_points

    def to(self, dtype: torch.dtype) -> GreenOperator:
        """Copy the operator in another precision."""
        other = copy.copy(self)
        other.inverse = self.inverse.to(dtype)
        return other

    def reference_symbol(self) -> torch.Tensor:
        """B^H C^0 B by frequency. Shape: -> (3, 3, N1, N2, N3 // 2 + 1) float64."""
        return self._symbol(discretizations.frequencies(self.shape, self.spacing))

    def _symbol(self, frequencies) -> torch.Tensor:
        return self.discretization.symbol(elasticity.stiffness_from_lame(*self.lame), frequencies)

    def gradient(self, displacement: torch.Tensor) -> torch.Tensor:
        """B u: strain of a displacement, without the macroscopic part. (B, 3, N...) -> (B, G, 6, N...)."""
        return self.discretization.gradient(displacement)

    def nodal_forces(self, stress: torch.Tensor) -> torch.Tensor:
        """B^T sigma / G, which is minus the divergence of a stress. (B, G, 6, N...) -> (B, 3, N...)."""
        return self.discretization.nodal_forces(stress)

    def displacement(self, force: torch.Tensor) -> torch.Tensor:
        """(B^T C^0 B)^-1 force, of zero mean. (B, 3, N...) -> the same."""
        spectrum = self.transform.forward(force)  # (B, 3, F...)
        return self.transform.back(self._times_inverse(spectrum))  # the integral of eq. 7

    def __call__(self, stress: torch.Tensor) -> torch.Tensor:
        """Gamma^0 sigma: (B, G, 6, N...) -> (B, G, 6, N...)."""
        return self.gradient(self.displacement(self.nodal_forces(stress)))  # G-hat * of eq. 10

    def _times_inverse(self, spectrum):
        """(B^T C^0 B)^-1 times the spectrum of a force. Shape: (B, 3, F...) -> (B, 3, F...)."""
        if self._fast:
            return fast.loops.times_by_frequency(self.inverse, spectrum)
        solved = torch.empty_like(spectrum)
        for i, (a, b, c) in enumerate(elasticity.MANDEL_ROWS):  # without a copy of the matrices for each cell
            torch.mul(self.inverse[a], spectrum[:, 0], out=solved[:, i])  # (B, F...)
            solved[:, i].addcmul_(self.inverse[b], spectrum[:, 1]).addcmul_(self.inverse[c], spectrum[:, 2])
        return solved


class Fourier:
    """The real Fourier transform over the axes of space; fast twins in :mod:`rlnlib.fast.transforms`.

    Real and imaginary parts stand side by side, since products of real and complex numbers cost four times as much.
    """

    def __init__(self, shape):
        self.shape = tuple(shape)

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        """Shape: (B, 3, N1, N2, N3) -> (B, 3, N1, N2, pairs)."""
        return torch.view_as_real(torch.fft.rfftn(field, dim=(-3, -2, -1))).flatten(-2)

    def back(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Shape: (B, 3, N1, N2, pairs) -> (B, 3, N1, N2, N3)."""
        return torch.fft.irfftn(torch.view_as_complex(spectrum.unflatten(-1, (-1, 2))), s=self.shape, dim=(-3, -2, -1))

    def spread(self, symbol: torch.Tensor) -> torch.Tensor:
        """Repeat each value of a symbol, for the real and the imaginary part of what it multiplies."""
        return symbol.repeat_interleave(2, dim=-1)


def _inverse_where_regular(matrices: torch.Tensor) -> torch.Tensor:
    """Inverse of each symmetric 3 x 3 matrix, by elimination; zero where the matrix vanishes.

    Shape: (3, 3, F...) -> (6, F...), in Mandel order.
    """
    (a, b, c), (_, d, e), (_, _, f) = matrices
    scale = a + d + f
    regular = scale > 1e-12 * scale.max()
    a, d, f = (torch.where(regular, pivot, 1) for pivot in (a, d, f))
    left, low = b / a, c / a  # L = ((1, 0, 0), (left, 1, 0), (low, right, 1)), and L diag(a, d', f') L^T = matrix
    d, e = d - left * b, e - left * c
    right = e / d
    f = f - low * c - right * e
    corner = left * right - low
    inverse = torch.stack(
        [
            1 / a + left**2 / d + corner**2 / f,
            1 / d + right**2 / f,
            1 / f,
            -right / f,
            corner / f,
            -left / d - corner * right / f,
        ]
    )
    return torch.where(regular, inverse, 0)
