r"""Gamma^0 = B (B^T C^0 B)^-1 B^T: the Green operator of a homogeneous reference medium on a periodic voxel grid.

A discretization is a choice of B, the matrix from displacements to strains:

``continuous``  Fourier derivative i xi of the trigonometric interpolant (Moulinec & Suquet 1998).
``rotated``     one strain a voxel, at its centre, from the eight corners (Willot 2015): one-point integration.
``hex8``        trilinear finite element, 2 x 2 x 2 Gauss points.
``bbar``        the same with the volumetric strain averaged over the element: selective reduced integration, as in
                the commercial C3D8 element.

Strains carry an axis for the integration points: (B, G, 6, N1, N2, N3) with G = 1 or 8, Mandel order, all points of
equal weight 1/G. Voxels are cubes of edge 1. An element of voxel n has the corners n + c, c in {0, 1}^3.

Nyquist rule (even N). ``continuous``: the derivative along an axis vanishes at that axis' Nyquist frequency, since
the derivative of a real cosine sampled at its zeros is zero; where all components vanish, Gamma^0 = 0. ``rotated``:
B vanishes where two components are at the Nyquist frequency (hourglass displacements without strain); Gamma^0 = 0
there. ``hex8`` and ``bbar`` have no such frequency.
"""

import itertools
import math

import torch
import torch.nn.functional as F

from rlnlib import _checks, elasticity
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


def gather(nodal: torch.Tensor) -> torch.Tensor:
    """The corner values of every voxel. Shape: (B, 3, N1, N2, N3) -> (B, 24, N1 * N2 * N3)."""
    padded = F.pad(nodal, (0, 1, 0, 1, 0, 1), mode="circular")
    batch, components, *shape = nodal.shape
    s = padded.stride()
    corners = padded.as_strided((batch, components, 2, 2, 2, *shape), (s[0], s[1], *s[2:], *s[2:]))
    return corners.reshape(batch, 8 * components, -1)  # one strided copy: (component, corner) x voxel


def scatter(corner_forces: torch.Tensor, shape, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Adjoint of :func:`gather`: adds up, at each node, ``weight`` times the forces of its eight voxels.

    Shape: (B, 24, N1 * N2 * N3), weight (B, 1, N1, N2, N3) -> (B, 3, N1, N2, N3).
    """
    batch = corner_forces.shape[0]
    forces = corner_forces.view(batch, 3, 8, *shape)
    padded = corner_forces.new_zeros(batch, 3, *(n + 1 for n in shape))
    for corner, (a, b, c) in enumerate(_CORNERS):
        target = padded[:, :, a : a + shape[0], b : b + shape[1], c : c + shape[2]]
        if weight is None:
            target += forces[:, :, corner]
        else:  # one pass for product and sum
            target.addcmul_(forces[:, :, corner], weight)
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
        self.dtype, self.device = _checks.floating(dtype), device
        if discretization == "continuous":
            symbol = _continuous_symbol(self.shape)
            self._symbol = symbol.to(device=device, dtype=dtype)
            stiffness = _vector_symbol_stiffness(symbol, *self.lame)
            self.integration_points = 1
        else:
            b = element_gradient(discretization)
            self._element_gradient = b.flatten(2).flatten(0, 1).to(device=device, dtype=dtype)  # (6 G, 24)
            reference = elasticity.stiffness_from_lame(*self.lame)
            stiffness = _stencil_symbol(element_stiffness(discretization, reference), self.shape)
            self.integration_points = len(b)
        # Real, since the stencil is even; each value twice, for the real and the imaginary part of what it
        # multiplies: real-by-complex products cost four times as much.
        inverse = _inverse_where_regular(stiffness).repeat_interleave(2, dim=-1)
        self._inverse = inverse.to(device=device, dtype=dtype)

    def gradient(self, displacement: torch.Tensor) -> torch.Tensor:
        """Strain of a displacement, without the macroscopic part: (B, 3, N...) -> (B, G, 6, N...)."""
        if self.discretization == "continuous":
            spectrum = torch.fft.rfftn(displacement, dim=(-3, -2, -1))
            k = self._symbol
            rows = [
                1j * k[i] * spectrum[:, i]
                if i == j
                else 1j * (k[j] * spectrum[:, i] + k[i] * spectrum[:, j]) / SQRT2
                for i, j in MANDEL_PAIRS
            ]
            return torch.fft.irfftn(torch.stack(rows, 1), s=self.shape, dim=(-3, -2, -1))[:, None]
        strain = self._element_gradient @ gather(displacement)
        return strain.view(len(displacement), self.integration_points, 6, *self.shape)

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
        return scatter(forces, self.shape) / self.integration_points

    def displacement(self, force: torch.Tensor) -> torch.Tensor:
        """(B^T C^0 B)^-1 force, of zero mean: (B, 3, N...) -> (B, 3, N...)."""
        spectrum = torch.fft.rfftn(force, dim=(-3, -2, -1))
        pairs = torch.view_as_real(spectrum).flatten(-2)  # (B, 3, N1, N2, N3 // 2 + 1 pairs)
        solved = torch.empty_like(pairs)
        for i in range(3):
            torch.mul(self._inverse[i, 0], pairs[:, 0], out=solved[:, i])
            solved[:, i].addcmul_(self._inverse[i, 1], pairs[:, 1]).addcmul_(self._inverse[i, 2], pairs[:, 2])
        spectrum = torch.view_as_complex(solved.unflatten(-1, (-1, 2)))
        return torch.fft.irfftn(spectrum, s=self.shape, dim=(-3, -2, -1))

    def __call__(self, stress: torch.Tensor) -> torch.Tensor:
        """Gamma^0 sigma: (B, G, 6, N...) -> (B, G, 6, N...)."""
        return self.gradient(self.displacement(self.divergence(stress)))


def _frequencies(shape) -> list[torch.Tensor]:
    """Angular frequencies of a real transform, each shaped to broadcast: (N1, 1, 1), (1, N2, 1), (1, 1, M)."""
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[:2]]
    axes.append(torch.fft.rfftfreq(shape[2], dtype=torch.float64))
    return [2 * math.pi * axis.view([-1 if a == b else 1 for b in range(3)]) for a, axis in enumerate(axes)]


def _continuous_symbol(shape) -> torch.Tensor:
    """xi of the Fourier derivative i xi, zero at the Nyquist frequency of its axis. Shape: -> (3, N1, N2, M)."""
    axes = _frequencies(shape)
    for axis in axes:
        axis[axis.abs() > math.pi * (1 - 1e-12)] = 0
    return torch.stack(torch.broadcast_tensors(*axes))


def _vector_symbol_stiffness(k: torch.Tensor, lam: float, mu: float) -> torch.Tensor:
    """B^H C^0 B = (lambda + mu) k k^T + mu |k|^2 I. Shape: (3, F...) -> (3, 3, F...)."""
    identity = torch.eye(3, dtype=k.dtype).view(3, 3, 1, 1, 1)
    return (lam + mu) * k[:, None] * k[None] + mu * (k * k).sum(0) * identity


def _stencil_symbol(matrix: torch.Tensor, shape) -> torch.Tensor:
    """Fourier symbol of the assembled element matrix: sum over corners c, d of K[c, d] cos(xi . (d - c)).

    Shape: (24, 24) -> (3, 3, N1, N2, M); real, because the stencil is its own mirror image.
    """
    blocks = matrix.view(3, 8, 3, 8)
    stencil: dict[tuple, torch.Tensor] = {}
    for (c, first), (d, second) in itertools.product(enumerate(_CORNERS), repeat=2):
        offset = tuple(b - a for a, b in zip(first, second, strict=True))
        stencil[offset] = stencil.get(offset, 0) + blocks[:, c, :, d]
    axes = _frequencies(shape)
    symbol = torch.zeros(3, 3, shape[0], shape[1], shape[2] // 2 + 1, dtype=matrix.dtype)
    for offset, block in stencil.items():
        phase = sum(o * axis for o, axis in zip(offset, axes, strict=True))
        symbol += block.view(3, 3, 1, 1, 1) * torch.cos(phase + torch.zeros_like(symbol[0, 0]))
    return symbol


def _inverse_where_regular(matrices: torch.Tensor) -> torch.Tensor:
    """Inverse of each 3 x 3 matrix; zero where the matrix vanishes. Shape: (3, 3, F...) -> (3, 3, F...)."""
    matrices = matrices.movedim((0, 1), (-2, -1))
    scale = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    regular = scale > 1e-12 * scale.max()
    inverse = torch.zeros_like(matrices)
    inverse[regular] = torch.linalg.inv(matrices[regular])
    return inverse.movedim((-2, -1), (0, 1)).contiguous()
