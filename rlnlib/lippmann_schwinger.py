r"""y = y_R - G * B(y): governing equations in Lippmann-Schwinger form (section 2.2).

A governing equation H(y) = 0 is split into L_a, linear and the same everywhere, and the rest B. The Green's function G
of L_a turns it into y = Phi(y). What solves that solves H(y) = 0. The other way round, too, for a field that is y_R
plus an answer of G: in elasticity a strain that belongs to a displacement and has the prescribed mean.

Here it is that of elasticity, y being the strain; :mod:`rlnlib.other_physics` has two more. L_a and B carry the sign of
B^T = -div, the adjoint of the gradient; it cancels in Phi.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from rlnlib import _checks, elasticity, problem
from rlnlib.green import GreenOperator
from rlnlib.problem import CellProblem

Operator = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class GoverningEquation:
    """H(y) = L_a y + B(y) = 0, with what its Lippmann-Schwinger form needs.

    Fields y and y_R have the shape (B, ..., N1, N2, N3).

    Attributes:
        reference: y_R with L_a y_R = 0.
        linear: L_a.
        green: Applies its Green's function, b -> G * b, the solution of L_a y = b (eq. 14).
        heterogeneous: B, which is linear in y for the equations of this library.
        transpose: The adjoint of y -> G * B(y), needed by gradient descent alone.
        project: Takes off what the mean of y forbids: for elasticity the mean of a direction; by default nothing.
    """

    reference: torch.Tensor
    linear: Operator
    green: Operator
    heterogeneous: Operator
    transpose: Operator | None = None
    project: Operator = lambda y: y
    _last: tuple | None = field(default=None, init=False, repr=False)

    def governing(self, y: torch.Tensor) -> torch.Tensor:
        """H(y), zero for the solution."""
        return self.linear(y) + self.heterogeneous(y)  # eq. 12, eq. 13a

    def perturbation(self, y: torch.Tensor) -> torch.Tensor:
        """-G * B(y), which the right-hand side of the equation adds to y_R."""
        if y.requires_grad or y.is_inference():  # what is kept would lack the graph; the other has no version
            return self.green(-self.heterogeneous(y))
        # The residual of an iterate and the step from it need the same; a change in place would be a new version.
        if self._last is None or self._last[0] is not y or self._last[1] != y._version:
            b = -self.heterogeneous(y)  # eq. 13b: L_a y = b
            self._last = (y, y._version, self.green(b))  # eq. 14, solved; for elasticity eq. 8
        return self._last[2]

    def phi(self, y: torch.Tensor) -> torch.Tensor:
        """Phi(y) = y_R - G * B(y); y = Phi(y) is the Lippmann-Schwinger equation."""
        return self.reference + self.perturbation(y)  # eq. 19, and so eq. 17, eq. 18; for elasticity eq. 9

    def residual(self, y: torch.Tensor) -> torch.Tensor:
        """y - Phi(y), zero for the solution."""
        return y - self.phi(y)  # eq. 20

    def linearized(self, direction: torch.Tensor) -> torch.Tensor:
        """(I + d/dy G * B) applied to a direction: how the residual changes along it, for B linear in y."""
        return direction + self.green(self.heterogeneous(direction))

    def gradient(self, residual: torch.Tensor) -> torch.Tensor:
        """(I + d/dy G * B)^T residual: the gradient of (y - Phi(y))^2 / 2 for ``residual = residual(y)``.

        The paper writes the first factor without the transpose that differentiation gives.
        """
        if self.transpose is None:
            raise ValueError("This equation has no transpose, which its gradient needs: pass transpose=...")
        return residual + self.transpose(residual)  # of eq. 24: the two factors of eq. 27


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
    medium = elasticity.midpoint_medium(cell.phases) if reference is None else _checks.as_medium(reference)
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
    # C' y = sum_h (C^h - C^R) m^h y; Gamma^0 of it is the sum over h of Gamma^h * (m^h y).
    polarization = cell.law(operator.dtype, operator.lame)  # eq. 23: all h at once, since each voxel has one phase
    uniform = cell.macroscopic_strain.to(operator.dtype).view(-1, 1, 6, 1, 1, 1)
    return GoverningEquation(
        reference=uniform.expand(-1, operator.integration_points, -1, *operator.shape).contiguous(),
        linear=lambda y: operator.nodal_forces(elasticity.hooke(y, *operator.lame)),  # -L y = -div (C^R y) (eq. 4)
        green=lambda b: operator.gradient(operator.displacement(b)),  # the y' of L y' = b (eq. 6)
        heterogeneous=lambda y: operator.nodal_forces(polarization(y)),  # -div (C' y), the right-hand side of eq. 3
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
