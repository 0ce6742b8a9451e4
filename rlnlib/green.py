r"""Gamma^0 = B (B^T C^0 B)^-1 B^T: the Green operator of a homogeneous reference medium on a periodic voxel grid.

A discretization is a choice of B, the matrix from displacements to strains:

- ``continuous``: Fourier derivative i xi of the trigonometric interpolant (Moulinec & Suquet 1998).
- ``rotated``: one strain a voxel, at its centre, from the eight corners (Willot 2015): one-point integration.
- ``hex8``: trilinear finite element, 2 x 2 x 2 Gauss points.
- ``bbar``: the same with the volumetric strain averaged over the element: selective reduced integration, as in the
  commercial C3D8 element.

Strains carry an axis for the integration points: (B, G, 6, N1, N2, N3) with G = 1 or 8, Mandel order, all points of
equal weight 1/G. Voxels are cubes of edge 1. An element of voxel n has the corners n + c, c in {0, 1}^3.

Nyquist rule (even N). ``continuous``: the derivative along an axis vanishes at that axis' Nyquist frequency, since
the derivative of a real cosine sampled at its zeros is zero; where all components vanish, Gamma^0 = 0. ``rotated``:
B vanishes where two components are at the Nyquist frequency (hourglass displacements without strain); Gamma^0 = 0
there. ``hex8`` and ``bbar`` have no such frequency.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F

from rlnlib import _checks, elasticity, fast
from rlnlib.elasticity import MANDEL_PAIRS, SQRT2

DISCRETIZATIONS = ("continuous", "rotated", "hex8", "bbar")
_CORNERS = tuple(itertools.product((0, 1), repeat=3))


def element_gradient(discretization: str) -> torch.Tensor:
    """B of one voxel element: strain at its integration points from the displacements of its corners.

    Shape: -> (G, 6, 3, 8) float64: integration point, Mandel component, displacement component, corner.
    """
    _checks.one_of("discretization", discretization, DISCRETIZATIONS[1:])
    abscissae = (0.5,) if discretization == "rotated" else (0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12))
    points = torch.tensor(list(itertools.product(abscissae, repeat=3)), dtype=torch.float64)
    corners = torch.tensor(_CORNERS, dtype=torch.float64)
    value = 1 - corners + (2 * corners - 1) * points[:, None]  # (G, 8, 3): one factor of N_c(x) for each axis
    slope = 2 * corners - 1
    shape_gradient = torch.stack(  # (G, 3, 8): dN_c / dx_j
        [slope[:, j] * value[..., (j + 1) % 3] * value[..., (j + 2) % 3] for j in range(3)], dim=1
    )
    gradient = torch.zeros(len(points), 6, 3, 8, dtype=torch.float64)
    for n, (i, j) in enumerate(MANDEL_PAIRS):
        if i == j:
            gradient[:, n, i] = shape_gradient[:, i]
        else:  # sqrt(2) epsilon_ij = (u_i,j + u_j,i) / sqrt(2)
            gradient[:, n, i] = shape_gradient[:, j] / SQRT2
            gradient[:, n, j] = shape_gradient[:, i] / SQRT2
    if discretization == "bbar":
        trace = gradient[:, :3].sum(1)  # (G, 3, 8)
        gradient[:, :3] += ((trace.mean(0) - trace) / 3)[:, None]
    return gradient


def element_stiffness(discretization: str, stiffness: torch.Tensor) -> torch.Tensor:
    """Stiffness of one voxel element, mean over the integration points of B^T C B.

    Shape: (6, 6) -> (24, 24) float64; rows and columns run over (displacement component, corner).
    """
    b = element_gradient(discretization).flatten(2)  # (G, 6, 24)
    return torch.einsum("gna,nm,gmb->ab", b, stiffness.to(b), b) / len(b)


def from_corners(matrix: torch.Tensor, nodal: torch.Tensor) -> torch.Tensor:
    """``matrix`` times the corner values of every voxel: a periodic convolution with a 2 x 2 x 2 kernel.

    Shape: (R, 24), (B, 3, N1, N2, N3) -> (B, R, N1, N2, N3).
    """
    padded = F.pad(nodal, (0, 1, 0, 1, 0, 1), mode="circular")
    batch, _, *shape = nodal.shape
    if batch > 1 or nodal.device.type != "cpu":
        return F.conv3d(padded, matrix.view(-1, 3, 2, 2, 2))
    # One cell alone: the CPU's convolution takes 4 times as long for it as for one of several (at 31^3).
    stride = padded.stride()
    corners = padded.as_strided((3, 2, 2, 2, *shape), (*stride[1:], *stride[2:]))
    return (matrix @ corners.reshape(24, -1)).view(1, -1, *shape)


def to_corners(corner_forces: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Adds up, at each node, ``weight`` times the corner forces of its eight voxels.

    Shape: (B, 24, N1, N2, N3), (B, 1, N1, N2, N3) -> (B, 3, N1, N2, N3).
    """
    batch, _, *shape = corner_forces.shape
    forces = corner_forces.reshape(batch, 3, 8, *shape)
    padded = corner_forces.new_zeros(batch, 3, *(n + 1 for n in shape))
    for corner, (a, b, c) in enumerate(_CORNERS):
        # One pass for product and sum.
        padded[:, :, a : a + shape[0], b : b + shape[1], c : c + shape[2]].addcmul_(forces[:, :, corner], weight)
    # The last plane of each axis is the first one of the next period.
    padded[:, :, 0] += padded[:, :, -1]
    padded[:, :, :, 0] += padded[:, :, :, -1]
    padded[..., 0] += padded[..., -1]
    return padded[:, :, :-1, :-1, :-1].contiguous()


class GreenOperator:
    """Gamma^0 of an isotropic reference medium with the moduli (``young``, ``poisson``).

    ``gradient`` is B, ``divergence`` its adjoint B^T (minus the divergence, times the voxel volume),
    ``displacement`` the inverse of B^T C^0 B on fields of zero mean, and calling the object applies
    Gamma^0 = B (B^T C^0 B)^-1 B^T to a stress-like field.

    Shape: strains and stresses (B, G, 6, N1, N2, N3); displacements and nodal forces (B, 3, N1, N2, N3).
    Raises ValueError for an unknown discretization, a modulus out of range or an axis shorter than 2.
    """

    def __init__(self, shape, discretization="bbar", young=1.0, poisson=0.3, dtype=torch.float64, device=None):
        self.shape = tuple(_checks.positive_integer("an axis of shape", n, least=2) for n in shape)
        if len(self.shape) != 3:
            raise ValueError(f"shape must name three axes (N1, N2, N3); it is {self.shape}.")
        self.discretization = _checks.one_of("discretization", discretization, DISCRETIZATIONS)
        self.lame = elasticity.lame_parameters(young, poisson)
        cast = {"dtype": _checks.floating(dtype), "device": device}
        device_type = torch.device(device or "cpu").type
        self._transform: list[torch.Tensor] = []
        if _prefers_hartley(self.shape, device_type):
            self._transform = [matrices.to(**cast) for matrices in _hartley_matrices(self.shape)]
        if discretization == "continuous":
            self._symbol = _continuous_symbol(_frequencies(self.shape)).to(**cast)
            self.integration_points = 1
        else:
            b = element_gradient(discretization)
            self._element_gradient = b.flatten(2).flatten(0, 1).to(**cast)  # (6 G, 24)
            self.integration_points = len(b)
        inverse = _inverse_where_regular(self.reference_symbol(half=not self._transform))
        if not self._transform:
            # Each value twice, for the real and the imaginary part of what it multiplies: real-by-complex
            # products cost four times as much.
            inverse = inverse.repeat_interleave(2, dim=-1)
        self._inverse = inverse.to(**cast)

    @property
    def dtype(self) -> torch.dtype:
        return self._inverse.dtype

    def to(self, dtype: torch.dtype) -> GreenOperator:
        """The same operator in another precision."""
        other = object.__new__(GreenOperator)
        other.__dict__.update(self.__dict__)
        for name in ("_inverse", "_symbol", "_element_gradient"):
            if name in other.__dict__:
                setattr(other, name, getattr(other, name).to(dtype))
        other._transform = [matrices.to(dtype) for matrices in self._transform]
        return other

    def reference_symbol(self, half: bool = True) -> torch.Tensor:
        """B^H C^0 B by frequency; real, because its stencil is its own mirror image.

        Shape: -> (3, 3, N1, N2, N3 // 2 + 1) float64, or (3, 3, N1, N2, N3) with ``half=False``.
        """
        frequencies = _frequencies(self.shape, half)
        if self.discretization == "continuous":
            return _vector_symbol_stiffness(_continuous_symbol(frequencies), *self.lame)
        reference = elasticity.stiffness_from_lame(*self.lame)
        return _stencil_symbol(element_stiffness(self.discretization, reference), frequencies)

    def gradient(self, displacement: torch.Tensor) -> torch.Tensor:
        """Strain of a displacement, without the macroscopic part: (B, 3, N...) -> (B, G, 6, N...)."""
        if self.discretization == "continuous":
            spectrum = torch.fft.rfftn(displacement, dim=(-3, -2, -1))
            k = self._symbol
            rows = [
                1j * k[i] * spectrum[:, i] if i == j else 1j * (k[j] * spectrum[:, i] + k[i] * spectrum[:, j]) / SQRT2
                for i, j in MANDEL_PAIRS
            ]
            return torch.fft.irfftn(torch.stack(rows, 1), s=self.shape, dim=(-3, -2, -1))[:, None]
        return from_corners(self._element_gradient, displacement).unflatten(1, (-1, 6))

    def divergence(self, stress: torch.Tensor) -> torch.Tensor:
        """Nodal forces B^T sigma / G of a stress: (B, G, 6, N...) -> (B, 3, N...)."""
        if self.discretization == "continuous":
            spectrum = torch.fft.rfftn(stress[:, 0], dim=(-3, -2, -1))
            k, rows = self._symbol, []
            for i in range(3):
                terms = [
                    k[q if i == p else p] * spectrum[:, n] / (1 if p == q else SQRT2)
                    for n, (p, q) in enumerate(MANDEL_PAIRS)
                    if i in (p, q)
                ]
                rows.append(-1j * (terms[0] + terms[1] + terms[2]))
            return torch.fft.irfftn(torch.stack(rows, 1), s=self.shape, dim=(-3, -2, -1))
        forces = self._element_gradient.mT @ stress.reshape(len(stress), 6 * self.integration_points, -1)
        share = forces.new_full((len(stress), 1, *self.shape), 1 / self.integration_points)
        return to_corners(forces.view(-1, 24, *self.shape), share)

    def displacement(self, force: torch.Tensor) -> torch.Tensor:
        """(B^T C^0 B)^-1 force, of zero mean: (B, 3, N...) -> (B, 3, N...)."""
        if self._transform:
            return self._hartley(self._solve_by_frequency(self._hartley(force)))
        spectrum = torch.fft.rfftn(force, dim=(-3, -2, -1))
        pairs = torch.view_as_real(spectrum).flatten(-2)  # (B, 3, N1, N2, N3 // 2 + 1 pairs)
        spectrum = torch.view_as_complex(self._solve_by_frequency(pairs).unflatten(-1, (-1, 2)))
        return torch.fft.irfftn(spectrum, s=self.shape, dim=(-3, -2, -1))

    def __call__(self, stress: torch.Tensor) -> torch.Tensor:
        """Gamma^0 sigma: (B, G, 6, N...) -> (B, G, 6, N...)."""
        return self.gradient(self.displacement(self.divergence(stress)))

    def _solve_by_frequency(self, spectrum: torch.Tensor) -> torch.Tensor:
        solved = torch.empty_like(spectrum)
        if fast.use(spectrum.device):
            fast.loops.times_by_frequency(self._inverse, spectrum, solved)
            return solved
        for i in range(3):
            torch.mul(self._inverse[i, 0], spectrum[:, 0], out=solved[:, i])
            solved[:, i].addcmul_(self._inverse[i, 1], spectrum[:, 1]).addcmul_(self._inverse[i, 2], spectrum[:, 2])
        return solved

    def _hartley(self, field: torch.Tensor) -> torch.Tensor:
        """The transform of :func:`_hartley_matrices`, its own inverse. Shape: (B, 3, N...) -> (B, 3, N...)."""
        for matrix in reversed(self._transform):  # each product brings the axis it transforms to the front
            *front, n = field.shape
            field = (matrix @ field.reshape(*front[:2], -1, n).mT).view(*front[:2], n, *front[2:])
        return field


def _prefers_hartley(shape, device_type: str) -> bool:
    """Up to 48 voxels an edge on a CPU: dense transforms take 0.4 of the fast Fourier transform's time at 31 (a
    prime), 1.1 at 32 and 1.0 at 48 (float32, two cores). And their result does not depend on the number of threads,
    as that of the inverse real Fourier transform does, which would change data sets in the last bit."""
    return fast.use(device_type) and max(shape) <= 48


def _hartley_matrices(shape) -> list[torch.Tensor]:
    """Real transforms that make an even stencil of vectors a 3 x 3 matrix by frequency, as Fourier's do.

    cas t = cos t + sin t turns under differentiation into cas(-t), so component i is expanded in cas(-t) along
    axis i and in cas(t) along the others: then d_i d_j takes the basis of component j to that of component i. Each
    matrix is symmetric and its own inverse.

    Shape: -> three (3, N_axis, N_axis) float64, by component.
    """
    transforms = []
    for axis, n in enumerate(shape):
        k = torch.arange(n, dtype=torch.float64)
        angle = 2 * math.pi / n * (k[:, None] * k % n)
        signs = torch.tensor([-1.0 if i == axis else 1.0 for i in range(3)], dtype=torch.float64)
        transforms.append((torch.cos(angle) + signs[:, None, None] * torch.sin(angle)) / math.sqrt(n))
    return transforms


def _frequencies(shape, half: bool = True) -> list[torch.Tensor]:
    """Angular frequencies by axis, shaped to broadcast: (N1, 1, 1), (1, N2, 1), (1, 1, N3 // 2 + 1 or N3)."""
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape]
    if half:
        axes[2] = torch.fft.rfftfreq(shape[2], dtype=torch.float64)
    return [2 * math.pi * axis.view([-1 if a == b else 1 for b in range(3)]) for a, axis in enumerate(axes)]


def _continuous_symbol(frequencies) -> torch.Tensor:
    """xi of the Fourier derivative i xi, zero at the Nyquist frequency of its axis. Shape: -> (3, F...)."""
    kept = [torch.where(axis.abs() > math.pi * (1 - 1e-12), 0, axis) for axis in frequencies]
    return torch.stack(torch.broadcast_tensors(*kept))


def _vector_symbol_stiffness(k: torch.Tensor, lam: float, mu: float) -> torch.Tensor:
    """B^H C^0 B = (lambda + mu) k k^T + mu |k|^2 I. Shape: (3, F...) -> (3, 3, F...)."""
    identity = torch.eye(3, dtype=k.dtype).view(3, 3, 1, 1, 1)
    return (lam + mu) * k[:, None] * k[None] + mu * (k * k).sum(0) * identity


def _stencil_symbol(matrix: torch.Tensor, frequencies) -> torch.Tensor:
    """Fourier symbol of the assembled element matrix: sum over corners c, d of K[c, d] cos(xi . (d - c)).

    Shape: (24, 24) -> (3, 3, F...).
    """
    blocks = matrix.view(3, 8, 3, 8)
    stencil: dict[tuple, torch.Tensor] = {}
    for (c, first), (d, second) in itertools.product(enumerate(_CORNERS), repeat=2):
        offset = tuple(b - a for a, b in zip(first, second, strict=True))
        offset = max(offset, tuple(-o for o in offset))  # the cosine of both is one
        stencil[offset] = stencil.get(offset, 0) + blocks[:, c, :, d]
    symbol = torch.zeros(1, dtype=matrix.dtype)
    for offset, block in stencil.items():
        phase = torch.broadcast_tensors(*frequencies)[0] * 0
        for o, axis in zip(offset, frequencies, strict=True):
            phase = phase + o * axis
        symbol = symbol + block.view(3, 3, 1, 1, 1) * torch.cos(phase)
    return symbol


def _inverse_where_regular(matrices: torch.Tensor) -> torch.Tensor:
    """Inverse of each 3 x 3 matrix; zero where the matrix vanishes. Shape: (3, 3, F...) -> (3, 3, F...)."""
    matrices = matrices.movedim((0, 1), (-2, -1))
    scale = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    regular = scale > 1e-12 * scale.max()
    inverse = torch.zeros_like(matrices)
    inverse[regular] = torch.linalg.inv(matrices[regular])
    return inverse.movedim((-2, -1), (0, 1)).contiguous()
