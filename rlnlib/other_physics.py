r"""y = y_R - G * B(y) beyond elasticity: heat conduction, and the scattering of a wave in one dimension.

The second is the problem that the equation is named after, and its Green's function is written in a line.
"""

from __future__ import annotations

import math

import torch

from rlnlib import _checks, discretizations
from rlnlib.lippmann_schwinger import GoverningEquation


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

    def minus_divergence(q):
        return back((symbol.conj() * transform(q)).sum(1, keepdim=True))

    def apply_green(b):
        return back(symbol * (inverse * transform(b)))

    return GoverningEquation(
        reference=mean.to(labels.device).view(1, 3, 1, 1, 1).expand(len(labels), 3, *shape).contiguous(),
        linear=lambda y: base * minus_divergence(y),
        green=apply_green,
        heterogeneous=lambda y: minus_divergence(excess * y),
        transpose=lambda r: excess * apply_green(minus_divergence(r)),
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
