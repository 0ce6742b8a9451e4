r"""y = y_R - G * B(y): governing equations in Lippmann-Schwinger form (section 2.2).

A governing equation H(y) = 0 is split into L_a, linear and the same everywhere, and the rest B. The Green's function G
of L_a turns it into y = Phi(y), which a field solves exactly if it solves H(y) = 0.

Three of them: elasticity, y being the strain; heat conduction, y being the temperature gradient; and the scattering of
a wave in one dimension, the problem the equation is named after. In the first two, L_a and B carry the sign of
B^T = -div, the adjoint of the gradient; it cancels in Phi.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from rlnlib import _checks, discretizations, elasticity, problem
from rlnlib.green import GreenOperator
from rlnlib.problem import CellProblem

Operator = Callable[[torch.Tensor], torch.Tensor]


def _itself(y: torch.Tensor) -> torch.Tensor:
    return y  # every perturbation is admissible; a docstring here would describe `project` twice in the book


@dataclass
class GoverningEquation:
    """H(y) = L_a y + B(y) = 0, with what its Lippmann-Schwinger form needs.

    Fields y and y_R have the shape (B, ..., N1, N2, N3).

    Attributes:
        reference: y_R with L_a y_R = 0.
        linear: L_a.
        green: Applies its Green's function, b -> G * b, the solution of L_a y = b (eq. 14).
        heterogeneous: B, which is linear in y for the equations of this module.
        transpose: The adjoint of y -> G * B(y), needed by gradient descent alone.
        project: Takes a field to the nearest perturbation that is admissible: one of zero mean, where the mean of y
            is prescribed.
    """

    reference: torch.Tensor
    linear: Operator
    green: Operator
    heterogeneous: Operator
    transpose: Operator | None = None
    project: Operator = _itself
    _last: tuple | None = field(default=None, init=False, repr=False)

    def governing(self, y: torch.Tensor) -> torch.Tensor:
        """H(y), zero for the solution."""
        return self.linear(y) + self.heterogeneous(y)  # eqs. 12 and 13a

    def perturbation(self, y: torch.Tensor) -> torch.Tensor:
        """-G * B(y), which the right-hand side of the equation adds to y_R."""
        # The residual of an iterate and the step from it need the same; a change in place would be a new version.
        if self._last is None or self._last[0] is not y or self._last[1] != y._version:
            b = -self.heterogeneous(y)  # eq. 13b: L_a y = b
            self._last = (y, y._version, self.green(b))  # for elasticity eq. 8
        return self._last[2]

    def phi(self, y: torch.Tensor) -> torch.Tensor:
        """Phi(y) = y_R - G * B(y) (eq. 19); y = Phi(y) is the Lippmann-Schwinger equation (eq. 18)."""
        return self.reference + self.perturbation(y)  # eq. 17 with b = -B(y); for elasticity eq. 9

    def residual(self, y: torch.Tensor) -> torch.Tensor:
        """y - Phi(y), zero for the solution."""
        return y - self.phi(y)  # eq. 20

    def linearized(self, direction: torch.Tensor) -> torch.Tensor:
        """(I + d/dy G * B) applied to a direction: how the residual changes along it, for B linear in y."""
        return direction + self.green(self.heterogeneous(direction))

    def gradient(self, residual: torch.Tensor) -> torch.Tensor:
        """(I + d/dy G * B)^T residual: the gradient of (y - Phi(y))^2 / 2 (eq. 24) for ``residual = residual(y)``.

        The paper writes the first factor without the transpose that differentiation gives.
        """
        if self.transpose is None:
            raise ValueError("This equation has no transpose, which its gradient needs: pass transpose=...")
        return residual + self.transpose(residual)  # the two factors of eq. 27


def elastic_equation(
    stiff,
    contrast: float | None = None,
    poisson: float = 0.3,
    macroscopic_strain=(1, 0, 0, 0, 0, 0),
    discretization: str = "bbar",
    phases: list[tuple[float, float]] | None = None,
    reference: tuple[float, float] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    spacing=(1, 1, 1),
) -> GoverningEquation:
    """Elastic equilibrium, y = y_R - Gamma^0 * (C' y): y is the strain at the integration points.

    Args:
        stiff: As for :func:`rlnlib.solve_strain`, and so the arguments below that are not listed.
        reference: (young, poisson) of C^R, by default :func:`rlnlib.elasticity.midpoint_medium`.
        dtype: Precision.

    Returns:
        The equation for y (B, G, 6, N1, N2, N3), Mandel; L_a y and B(y) are nodal forces (B, 3, N1, N2, N3).

    Raises:
        ValueError: As :func:`rlnlib.solve_strain` does, and for a reference that is no pair.
    """
    cell = problem.cell_problem(stiff, contrast, poisson, macroscopic_strain, phases, spacing, device)
    medium = elasticity.midpoint_medium(cell.phases) if reference is None else problem.as_medium(reference)
    operator = GreenOperator(cell.shape, discretization, *medium, dtype, cell.labels.device, cell.spacing)
    return from_green_operator(cell, operator)


def from_green_operator(cell: CellProblem, operator: GreenOperator) -> GoverningEquation:
    """Elastic equilibrium of a cell problem, y = y_R - Gamma^0 * (C' y).

    Args:
        cell: Labels, phases and macroscopic strain.
        operator: Gamma^0, with its grid, its discretization and its reference medium C^R.

    Returns:
        The equation for the strain y (B, G, 6, N1, N2, N3), Mandel.
    """
    lam_r, mu_r = operator.lame
    law = cell.law(operator.dtype, operator.lame)  # C' = C - C^R
    uniform = cell.macroscopic_strain.to(operator.dtype).view(-1, 1, 6, 1, 1, 1)

    def polarization(y):
        """C' y = sum_h (C^h - C^R) m^h y; Gamma^0 of it is the sum over h of Gamma^h * (m^h y) (eq. 23)."""
        return law(y)

    return GoverningEquation(
        reference=uniform.expand(-1, operator.integration_points, -1, *operator.shape).contiguous(),
        linear=lambda y: operator.divergence(elasticity.hooke(y, lam_r, mu_r)),  # L y = div (C^R y) (eq. 4)
        green=lambda b: operator.gradient(operator.displacement(b)),  # the y' of L y' = b (eq. 6)
        heterogeneous=lambda y: operator.divergence(polarization(y)),  # div (C' y), minus the right-hand side of eq. 3
        # G * B = Gamma^0 C', and Gamma^0 and C' are their own adjoints.
        transpose=lambda r: polarization(operator(r)),
        project=lambda y: y - y.mean((1, 3, 4, 5), keepdim=True),
    )


def green_kernel(operator: GreenOperator) -> torch.Tensor:
    """The kernel of Gamma^0 (the G-hat of eq. 10) on the grid: strain around a unit stress in the voxel at the origin.

    The mean over the integration points, for a stress that is the same at all of them. With one integration point
    (``continuous``, ``rotated``) the circular convolution with it is the operator.

    Returns:
        (6, 6, N1, N2, N3): strain component, stress component.
    """
    points = operator.integration_points
    impulse = torch.zeros(6, points, 6, *operator.shape, dtype=operator.dtype, device=operator.device)
    for n in range(6):
        impulse[n, :, n, 0, 0, 0] = 1
    return operator(impulse).mean(1).movedim(0, 1)  # (6, 6, N1, N2, N3)


def phase_kernels(operator: GreenOperator, phases: list[tuple[float, float]]) -> torch.Tensor:
    """Gamma^h = G-hat (C^h - C^R), the stencils of the equation, one for each phase.

    Args:
        operator: Gamma^0 of C^R.
        phases: (young, poisson) of each phase.

    Returns:
        (P, 6, 6, N1, N2, N3).
    """
    reference = elasticity.stiffness_from_lame(*operator.lame)
    excess = torch.stack([elasticity.isotropic_stiffness(*phase) - reference for phase in phases])  # (P, 6, 6)
    kernel = green_kernel(operator)  # (6, 6, N1, N2, N3)
    return torch.einsum("nmxyz,pmk->pnkxyz", kernel, excess.to(kernel))  # eq. 11


def convolve(kernel: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Convolve a matrix-valued kernel with a periodic field, by Fourier transforms.

    Args:
        kernel: (R, C, N1, N2, N3).
        values: The field, (B, C, N1, N2, N3).

    Returns:
        (B, R, N1, N2, N3).
    """
    axes, shape = (-3, -2, -1), values.shape[-3:]
    spectra = torch.fft.rfftn(kernel, dim=axes), torch.fft.rfftn(values, dim=axes)
    return torch.fft.irfftn(torch.einsum("rcxyz,bcxyz->brxyz", *spectra), s=shape, dim=axes)  # * of eq. 10


def centred_derivatives(shape) -> torch.Tensor:
    """Symbol of d/dx_j at the centre of a voxel: difference along axis j, mean along the others (``rotated``).

    Returns:
        (3, N1, N2, N3 // 2 + 1) complex128, for voxels of edge 1.
    """
    turns = [torch.exp(1j * angle) for angle in discretizations.frequencies(shape)]
    return torch.stack([(turns[j] - 1) * (turns[j - 1] + 1) * (turns[j - 2] + 1) / 4 for j in range(3)])


def conduction_equation(
    labels,
    conductivities,
    mean_gradient=(1.0, 0.0, 0.0),
    reference: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> GoverningEquation:
    """Heat conduction, div (k y) = 0 for the temperature gradient y, in the rotated discretization of the elastic one.

    Args:
        labels: (B, N1, N2, N3).
        conductivities: Those of the labels 0, 1, ...
        mean_gradient: Mean of y.
        reference: Conductivity of the reference medium, by default the middle between the extreme ones.
        dtype: Precision.

    Returns:
        The equation for y (B, 3, N1, N2, N3).

    Raises:
        ValueError: For labels without a conductivity, or a conductivity that is not positive.
    """
    given = _checks.as_tensor(conductivities, "conductivities")
    if given.ndim != 1 or not len(given):
        raise ValueError(f"conductivities must be one for each label; their shape is {tuple(given.shape)}.")
    # Products of two shall be finite.
    values = [_checks.within("a conductivity", value, 1e-150, 1e150) for value in given.tolist()]
    labels = _checks.as_labels(labels, len(values), name="labels")
    base = _checks.positive("reference", (min(values) + max(values)) / 2 if reference is None else reference)
    mean = _checks.as_tensor(mean_gradient, "mean_gradient").to(_checks.floating(dtype))
    if mean.shape != (3,) or not bool(torch.isfinite(mean).all()):
        raise ValueError(f"mean_gradient must be three finite numbers; it is {mean_gradient!r}.")
    shape, axes = labels.shape[1:], (-3, -2, -1)
    excess = (torch.tensor(values, dtype=dtype) - base).to(labels.device)[labels][:, None]
    kind = torch.complex128 if dtype == torch.float64 else torch.complex64
    symbol = centred_derivatives(shape).to(labels.device, kind)  # (3, F...)
    square = symbol.abs().square().sum(0)  # (F...)
    inverse = torch.where(square > 1e-12, 1 / square.clamp(min=1e-12), 0) / base

    def transform(y):
        return torch.fft.rfftn(y, dim=axes)

    def back(spectrum):
        return torch.fft.irfftn(spectrum, s=shape, dim=axes)

    def divergence(q):
        return back((symbol.conj() * transform(q)).sum(1, keepdim=True))

    def apply_green(b):
        return back(symbol * (inverse * transform(b)))

    return GoverningEquation(
        reference=mean.to(labels.device).view(1, 3, 1, 1, 1).expand(len(labels), 3, *shape).contiguous(),
        linear=lambda y: base * divergence(y),
        green=apply_green,
        heterogeneous=lambda y: divergence(excess * y),
        transpose=lambda r: excess * apply_green(divergence(r)),
        project=lambda y: y - y.mean(axes, keepdim=True),
    )


def scattering_equation(potential, wavenumber: float, spacing: float) -> GoverningEquation:
    r"""A wave in one dimension, y'' + k^2 y - V y = 0, that comes in from the left as exp(i k x).

    L_a = d^2/dx^2 + k^2 and B(y) = -V y, which vanishes outside of the grid. The second derivative is the central
    difference, and its own plane wave and Green's function stand in for the continuous ones,
    ``exp(i q |x - s|) h / (2 i sin q h)`` with 2 cos q h = 2 - k^2 h^2, so L_a G = delta holds exactly on the grid;
    both tend to those of the continuum with h^2.

    Args:
        potential: V at the points of the grid, (B, N).
        wavenumber: k.
        spacing: h.

    Returns:
        The equation for y (B, 2, N, 1, 1): real and imaginary part.

    Raises:
        ValueError: For a potential of another shape, or a grid too coarse for the wave (k h >= 2).
    """
    values = _checks.as_tensor(potential, "potential").to(torch.float64)
    if values.ndim != 2 or values.numel() == 0 or not bool(torch.isfinite(values).all()):
        raise ValueError(f"potential must be finite with the shape (B, N); its shape is {tuple(values.shape)}.")
    k, h = _checks.within("wavenumber", wavenumber, 1e-100, 1e100), _checks.within("spacing", spacing, 1e-100, 1e100)
    if k * h >= 2:
        raise ValueError(f"wavenumber * spacing is {k * h:g}: the grid carries waves below 2 only. Refine it.")
    phase = 2 * math.asin(k * h / 2)  # q h
    position = torch.arange(values.shape[1], dtype=torch.float64)
    incoming = torch.exp(1j * phase * position)
    # G(x, s) with L_a G = delta (eq. 15), times the length h of the sum's steps; (N, N).
    kernel = torch.exp(1j * phase * (position[:, None] - position).abs()) * h / (2j * math.sin(phase)) * h
    reference = _as_real(incoming.expand(len(values), -1))

    def linear(y):
        scattered = _as_complex(y - reference)  # L_a y_R = 0
        outgoing = complex(math.cos(phase), math.sin(phase))  # beyond the ends the scattered wave runs away
        padded = torch.cat([outgoing * scattered[:, :1], scattered, outgoing * scattered[:, -1:]], 1)  # (B, N + 2)
        return _as_real((padded[:, 2:] - 2 * scattered + padded[:, :-2]) / h**2 + k**2 * scattered)

    def apply_green(b):
        return _as_real(_as_complex(b) @ kernel)  # sum over s of G(x, s) b(s) (eq. 16)

    def heterogeneous(y):
        return -values[:, None, :, None, None] * y

    return GoverningEquation(
        reference=reference,
        linear=linear,
        green=apply_green,
        heterogeneous=heterogeneous,
        transpose=lambda r: heterogeneous(_as_real(_as_complex(r) @ kernel.conj())),  # kernel is symmetric
    )


def _as_complex(y: torch.Tensor) -> torch.Tensor:
    """Shape: (B, 2, N, 1, 1) -> (B, N)."""
    return torch.complex(y[:, 0, :, 0, 0], y[:, 1, :, 0, 0])


def _as_real(z: torch.Tensor) -> torch.Tensor:
    """Shape: (B, N) -> (B, 2, N, 1, 1)."""
    return torch.stack([z.real, z.imag], 1)[..., None, None]
