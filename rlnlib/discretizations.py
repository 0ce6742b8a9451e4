r"""epsilon = B u: from displacements to strains on a periodic voxel grid, one class for each choice of B.

- :class:`Continuous`: Fourier derivative i xi of the trigonometric interpolant (Moulinec & Suquet 1998).
- :class:`Rotated`: one strain a voxel, at its centre, from the eight corners (Willot 2015): one-point integration.
- :class:`Hex8`: trilinear finite element, 2 x 2 x 2 Gauss points.
- :class:`BBar`: the same with the volumetric strain averaged over the element: selective reduced integration, as in the
  commercial C3D8 element.

Strains carry an axis for the integration points: (B, G, 6, N1, N2, N3) with G = 1 or 8, Mandel order, all points of
equal weight 1/G. Voxels are boxes with the edges ``spacing``. The element of voxel n has the corners n + c, c in
{0, 1}^3.

Nyquist rule (even N). ``continuous``: the derivative along an axis vanishes at that axis' Nyquist frequency, since
the derivative of a real cosine sampled at its zeros is zero. ``rotated``: B vanishes where two components are at the
Nyquist frequency (hourglass displacements without strain). ``hex8`` and ``bbar`` have no such frequency.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from rlnlib import _checks, elasticity, fast
from rlnlib.elasticity import MANDEL_PAIRS, SQRT2

#: K: takes displacements (B, 3, N1, N2, N3) and moduli (B, P, N1, N2, N3) to nodal forces K u, (B, 3, N1, N2, N3).
StiffnessOperator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: Corners of a voxel, in units of its edges.
CORNERS = tuple(itertools.product((0, 1), repeat=3))
_AXES = (-3, -2, -1)


class Discretization:
    """B, its adjoint and its Fourier symbol on one grid.

    Args:
        shape: Voxels by axis (N1, N2, N3).
        spacing: Edges of a voxel.
    """

    name: str
    integration_points: int

    def __init__(self, shape, spacing=(1.0, 1.0, 1.0)):
        self.shape, self.spacing = tuple(shape), tuple(spacing)

    def gradient(self, displacement: torch.Tensor) -> torch.Tensor:
        """B u: strain at the integration points, without the macroscopic part. (B, 3, N...) -> (B, G, 6, N...)."""
        raise NotImplementedError

    def nodal_forces(self, stress: torch.Tensor) -> torch.Tensor:
        """B^T sigma / G, which is minus the divergence of a stress. (B, G, 6, N...) -> (B, 3, N...)."""
        raise NotImplementedError

    def symbol(self, stiffness: torch.Tensor, frequencies: Sequence[torch.Tensor]) -> torch.Tensor:
        """B^H C B at some :func:`frequencies`, C (6, 6) -> (3, 3, F...) float64.

        It is real, because the stencil is its own mirror image.
        """
        raise NotImplementedError

    def mean_gradient(self, displacement: torch.Tensor) -> torch.Tensor:
        """The mean of B u over the integration points of each voxel. (B, 3, N...) -> (B, 6, N...)."""
        return self.gradient(displacement).mean(1)

    def nodal_forces_of_uniform(self, stress: torch.Tensor, modulus: torch.Tensor) -> torch.Tensor:
        """Nodal forces of a uniform stress times a modulus of each voxel. (B, 6), (B, 1, N...) -> (B, 3, N...)."""
        field = stress.to(modulus).view(-1, 1, 6, 1, 1, 1) * modulus[:, None]
        return self.nodal_forces(field.expand(-1, self.integration_points, -1, -1, -1, -1))

    def stiffness_operator(self, basis: Sequence[tuple[float, float]]) -> StiffnessOperator:
        """K = B^T C B for C = sum_p modulus_p C_p by voxel; C_p is isotropic with the Lame parameters ``basis[p]``."""

        def apply(displacement, moduli):
            lam, mu = elasticity.lame_fields(moduli, basis)
            return self.nodal_forces(elasticity.hooke(self.gradient(displacement), lam[:, None], mu[:, None]))

        return apply


class Continuous(Discretization):
    """Fourier derivative i xi of the trigonometric interpolant; one strain a voxel."""

    name = "continuous"
    integration_points = 1

    def gradient(self, displacement):
        spectrum = torch.fft.rfftn(displacement, dim=_AXES)  # (B, 3, F...)
        k = [axis.to(displacement) for axis in self._derivatives(frequencies(self.shape, self.spacing))]
        rows = [
            1j * k[i] * spectrum[:, i] if i == j else 1j * (k[j] * spectrum[:, i] + k[i] * spectrum[:, j]) / SQRT2
            for i, j in MANDEL_PAIRS
        ]
        return torch.fft.irfftn(torch.stack(rows, 1), s=self.shape, dim=_AXES)[:, None]  # (B, 1, 6, N...)

    def nodal_forces(self, stress):
        spectrum = torch.fft.rfftn(stress[:, 0], dim=_AXES)  # (B, 6, F...)
        k = [axis.to(stress) for axis in self._derivatives(frequencies(self.shape, self.spacing))]
        rows = []
        for i in range(3):
            terms = [
                k[q if i == p else p] * spectrum[:, n] / (1 if p == q else SQRT2)
                for n, (p, q) in enumerate(MANDEL_PAIRS)
                if i in (p, q)
            ]
            rows.append(-1j * (terms[0] + terms[1] + terms[2]))
        return torch.fft.irfftn(torch.stack(rows, 1), s=self.shape, dim=_AXES)

    def symbol(self, stiffness, frequencies):
        k = torch.broadcast_tensors(*self._derivatives(frequencies))
        b = strain_of(torch.stack(k)[None])[0]  # B / i, (6, 3, F...)
        return torch.einsum("ni...,nm,mj...->ij...", b, stiffness.to(b), b)  # (3, 3, F...)

    def _derivatives(self, frequencies):
        """xi by axis, zero at the Nyquist frequency."""
        return [
            torch.where(axis.abs() * h > math.pi * (1 - 1e-12), 0, axis)
            for axis, h in zip(frequencies, self.spacing, strict=True)
        ]


class Element(Discretization):
    """A voxel as an element with a displacement at each of its eight corners, trilinear in between.

    An element of one's own has to be its own mirror image along each axis, as these are: else its symbol is not real.
    """

    #: Integration points along each axis, in units of the edge.
    abscissae: tuple[float, ...]

    def __init__(self, shape, spacing=(1.0, 1.0, 1.0)):
        super().__init__(shape, spacing)
        gradient = self.element_gradient(self.spacing).flatten(2)  # (G, 6, 24)
        self.integration_points = len(gradient)
        mean = gradient.mean(0)
        self._gradient, self._mean = LikeFields(gradient.flatten(0, 1)), LikeFields(mean)  # (6 G, 24), (6, 24)
        centre = Rotated.element_gradient(self.spacing)[0].flatten(1)  # where a trilinear gradient has its mean
        self._has_trilinear_mean = bool((mean - centre).abs().max() < 1e-12 * centre.abs().max())

    @classmethod
    def points(cls) -> torch.Tensor:
        """Integration points within a voxel, in units of its edges. Shape: -> (G, 3) float64."""
        return torch.tensor(list(itertools.product(cls.abscissae, repeat=3)), dtype=torch.float64)

    @classmethod
    def element_gradient(cls, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> torch.Tensor:
        """B of one voxel: strain at its integration points from the displacements of its corners.

        Returns:
            (G, 6, 3, 8) float64: integration point, Mandel component, displacement component, corner.
        """
        points = cls.points()
        corners = torch.tensor(CORNERS, dtype=torch.float64)
        value = 1 - corners + (2 * corners - 1) * points[:, None]  # (G, 8, 3): one factor of N_c(x) for each axis
        slope = (2 * corners - 1) / torch.tensor(spacing, dtype=torch.float64)
        shape_gradient = torch.stack(  # (G, 3, 8): dN_c / dx_j
            [slope[:, j] * value[..., (j + 1) % 3] * value[..., (j + 2) % 3] for j in range(3)], dim=1
        )
        return strain_of(shape_gradient)

    @classmethod
    def element_stiffness(cls, stiffness: torch.Tensor, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> torch.Tensor:
        """K of one voxel over its volume: the mean over the integration points of B^T C B.

        Returns:
            (24, 24) float64; rows and columns run over (displacement component, corner).
        """
        b = cls.element_gradient(spacing).flatten(2)  # (G, 6, 24)
        return torch.einsum("gna,nm,gmb->ab", b, stiffness.to(b), b) / len(b)  # (24, 24)

    def gradient(self, displacement):
        return from_corners(self._gradient(displacement), displacement).unflatten(1, (-1, 6))  # (B, G, 6, N...)

    def nodal_forces(self, stress):
        rows = self._gradient(stress)  # (6 G, 24)
        forces = rows.mT @ stress.reshape(len(stress), len(rows), -1)  # (B, 24, voxels)
        share = forces.new_full((len(stress), 1, *self.shape), 1 / self.integration_points)
        return to_corners(forces.view(-1, 24, *self.shape), share)

    def symbol(self, stiffness, frequencies):
        # Of the assembled element: sum over corners c, d of K[c, d] cos(xi . (d - c)), axis by axis.
        blocks = self.element_stiffness(stiffness, self.spacing).view(3, 8, 3, 8)  # (component, corner) twice
        stencil = torch.zeros(3, 3, 3, 3, 3, dtype=torch.complex128)  # row, column, 1 + (d - c) by axis
        for (c, first), (d, second) in itertools.product(enumerate(CORNERS), repeat=2):
            x, y, z = (1 + after - before for before, after in zip(first, second, strict=True))
            stencil[:, :, x, y, z] += blocks[:, c, :, d]
        # In 1, cos and sin of the angle along each axis: exp(i k a), k = -1, 0, 1, are their columns here.
        waves = torch.tensor([[0, 1, 0], [1, 0, 1], [-1j, 0, 1j]], dtype=torch.complex128)
        stencil = torch.einsum("ijabc,pa,qb,rc->ijpqr", stencil, waves, waves, waves).real
        angles = [h * axis.ravel() for axis, h in zip(frequencies, self.spacing, strict=True)]
        turns = [torch.stack([torch.ones_like(a), a.cos(), a.sin()]) for a in angles]
        return torch.einsum("ijpqr,px,qy,rz->ijxyz", stencil, *turns)

    def mean_gradient(self, displacement):
        if fast.use(displacement.device) and self._has_trilinear_mean:
            return fast.elements.mean_strain(displacement, self.spacing)
        return from_corners(self._mean(displacement), displacement)

    def nodal_forces_of_uniform(self, stress, modulus):
        corner_forces = (stress.to(modulus) @ self._mean(modulus)).view(-1, 24, 1, 1, 1)  # (B, 24, 1, 1, 1)
        return to_corners(corner_forces.expand(-1, -1, *self.shape), modulus)

    def stiffness_operator(self, basis):
        """By elements: corner values times the matrix of the element, added up at the nodes."""
        matrices = [self.element_stiffness(elasticity.stiffness_from_lame(*lame), self.spacing) for lame in basis]
        as_field = [LikeFields(matrix) for matrix in matrices]
        modes = functools.cache(lambda: fast.elements.corner_modes(matrices))

        def apply(displacement, moduli):
            if fast.use(displacement.device):
                return fast.elements.nodal_forces(displacement, moduli, modes())
            parts = zip(as_field, moduli.split(1, 1), strict=True)
            forces = [to_corners(from_corners(k(displacement), displacement), modulus) for k, modulus in parts]
            return functools.reduce(torch.add, forces)

        return apply


class Rotated(Element):
    """One integration point, the centre of the voxel."""

    name = "rotated"
    abscissae = (0.5,)


class Hex8(Element):
    """2 x 2 x 2 Gauss points."""

    name = "hex8"
    abscissae = (0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12))


class BBar(Hex8):
    """Hex8 with the volumetric strain averaged over the element."""

    name = "bbar"

    @classmethod
    def element_gradient(cls, spacing=(1.0, 1.0, 1.0)):
        gradient = super().element_gradient(spacing)
        trace = gradient[:, :3].sum(1)  # (G, 3, 8)
        gradient[:, :3] += ((trace.mean(0) - trace) / 3)[:, None]
        return gradient


#: The discretizations by name.
KINDS: dict[str, type[Discretization]] = {kind.name: kind for kind in (Continuous, Rotated, Hex8, BBar)}
DISCRETIZATIONS = tuple(KINDS)


def make(name: str, shape: Sequence[int], spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Discretization:
    """Make the discretization of that name on a grid. Raises ValueError for an unknown name."""
    return KINDS[_checks.one_of("discretization", name, DISCRETIZATIONS)](shape, spacing)


def strain_of(derivative: torch.Tensor) -> torch.Tensor:
    """B in Mandel's order: the strain of the displacements N e_i, from the gradient of a shape function N.

    Shape: dN/dx_j (G, 3, ...) -> (G, 6, 3, ...): point, Mandel component, i.
    """
    b = derivative.new_zeros(len(derivative), 6, *derivative.shape[1:])
    for n, (i, j) in enumerate(MANDEL_PAIRS):
        if i == j:
            b[:, n, i] = derivative[:, i]
        else:  # sqrt(2) epsilon_ij = (u_i,j + u_j,i) / sqrt(2)
            b[:, n, i], b[:, n, j] = derivative[:, j] / SQRT2, derivative[:, i] / SQRT2
    return b


class LikeFields:
    """A matrix in the precision and on the device of a field; converted once, so that a GPU need not wait."""

    def __init__(self, matrix: torch.Tensor):
        self.matrix, self.converted = matrix, dict[tuple[torch.device, torch.dtype], torch.Tensor]()

    def __call__(self, field: torch.Tensor) -> torch.Tensor:
        key = field.device, field.dtype
        if key not in self.converted:
            self.converted[key] = self.matrix.to(*key)
        return self.converted[key]


def from_corners(matrix: torch.Tensor, nodal: torch.Tensor) -> torch.Tensor:
    """``matrix`` times the corner values of every voxel: a periodic convolution with a 2 x 2 x 2 kernel.

    Shape: (R, 24), (B, 3, N1, N2, N3) -> (B, R, N1, N2, N3).
    """
    padded = F.pad(nodal, (0, 1, 0, 1, 0, 1), mode="circular")  # (B, 3, N1 + 1, N2 + 1, N3 + 1)
    return F.conv3d(padded, matrix.view(-1, 3, 2, 2, 2))  # (B, R, N1, N2, N3)


def to_corners(corner_forces: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Add up, at each node, ``weight`` times the corner forces of its eight voxels.

    Shape: (B, 24, N1, N2, N3), (B, 1, N1, N2, N3) -> (B, 3, N1, N2, N3).
    """
    batch, _, *shape = corner_forces.shape
    forces = corner_forces.reshape(batch, 3, 8, *shape)  # (B, 3, 8, N...)
    padded = corner_forces.new_zeros(batch, 3, *(n + 1 for n in shape))
    for corner, (a, b, c) in enumerate(CORNERS):
        padded[:, :, a : a + shape[0], b : b + shape[1], c : c + shape[2]].addcmul_(forces[:, :, corner], weight)
    # The last plane of each axis is the first one of the next period.
    padded[:, :, 0] += padded[:, :, -1]
    padded[:, :, :, 0] += padded[:, :, :, -1]
    padded[..., 0] += padded[..., -1]
    return padded[:, :, :-1, :-1, :-1].contiguous()


def frequencies(shape: Sequence[int], spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> list[torch.Tensor]:
    """Angular frequencies xi of a real Fourier transform by axis, in radians per unit of length.

    Args:
        shape: Voxels by axis.
        spacing: Edges of a voxel.

    Returns:
        Three float64 tensors, shaped to broadcast: (N1, 1, 1), (1, N2, 1), (1, 1, N3 // 2 + 1).
    """
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape]
    axes[2] = torch.fft.rfftfreq(shape[2], dtype=torch.float64)
    scaled = [2 * math.pi * axis / h for axis, h in zip(axes, spacing, strict=True)]
    return [axis.view([-1 if a == b else 1 for b in range(3)]) for a, axis in enumerate(scaled)]
