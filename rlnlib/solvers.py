r"""y_i = y_R + f_i(y_{i-1}): iterations for y = Phi(y) on a batch of cells.

Each cell stops by itself, when ``||residual|| <= max(rtol * ||rhs||, atol)``; for y = Phi(y) the residual is
y - Phi(y), and that of y_R takes the place of the right-hand side.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rlnlib import _checks

if TYPE_CHECKING:  # the networks take the loop alone
    from rlnlib.lippmann_schwinger import GoverningEquation


def recurrence(proximals, reference: torch.Tensor, history: int = 0) -> Iterator[torch.Tensor]:
    """The loop of Fig. 2a, y_i = y_R + f_i(y_{i-1}, y_{i-2}, ...; m), from y_0 = y_R.

    Fixed-point and gradient schemes differ from the learned ones only in f_i.

    Args:
        proximals: The f_i, one for each pass: functions of a list of ``1 + history`` iterates, newest first (zeros
            before there are so many), that know the microstructure.
        reference: y_R.
        history: How many iterates f_i sees beside the newest.

    Yields:
        y_1, y_2, ..., each like ``reference``.
    """
    past = [reference] + [torch.zeros_like(reference)] * history
    for proximal in proximals:
        past = [reference + proximal(past), *past][: 1 + history]  # eq. 22
        yield past[0]


@dataclass(frozen=True)
class StoppingRule:
    """``||residual|| <= max(rtol * ||rhs||, atol)`` for each cell, after at most ``max_iterations``.

    Attributes:
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        max_iterations: The most iterations.
        unit: What a norm of 1 is in the unit of ``atol``: a number, or (B,).

    Raises:
        ValueError: For negative tolerances, both 0, or no iteration.
    """

    rtol: float = 1e-8
    atol: float = 0.0
    max_iterations: int = 2000
    unit: float | torch.Tensor = 1.0

    def __post_init__(self):
        for name in ("rtol", "atol"):
            object.__setattr__(self, name, _checks.within(name, getattr(self, name), 0, sys.float_info.max))
        if self.rtol == 0 and self.atol == 0:
            raise ValueError("rtol and atol are both 0, which no iteration can reach: set one of them above 0.")
        object.__setattr__(self, "max_iterations", _checks.positive_integer("max_iterations", self.max_iterations))

    def threshold(self, rhs_norm: torch.Tensor) -> torch.Tensor:
        """The norm of the residual at which a cell is done. Shape: (B,) -> (B,)."""
        return torch.maximum(self.rtol * rhs_norm, torch.as_tensor(self.atol / self.unit).to(rhs_norm))


@dataclass
class Statistics:
    """How an iteration went, by cell: see :class:`rlnlib.Solution`."""

    converged: torch.Tensor
    iterations: torch.Tensor
    residuals: torch.Tensor
    residual: torch.Tensor


#: Told the number of each iteration, and the largest relative residual of the cells that still iterate.
Watch = Callable[[int, float], None]


def norm(field: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each cell's field. Shape: (B, ...) -> (B,)."""
    return inner(field, field).sqrt()


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Scalar product of each cell's fields. Shape: (B, C, ..., N2, N3) twice -> (B,).

    Summed plane by plane and then over the planes: the order, and so the last bit, does not depend on the number of
    threads or on the batch, as it does in one sum over all.
    """
    planes = [(x * y).sum((-1, -2)) for x, y in zip(a.unbind(1), b.unbind(1), strict=True)]  # one component at a time
    return torch.stack(planes, 1).flatten(1).sum(1)


def ratio(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Divide a by b for each cell; 0 where b is not positive, as for a cell that is solved exactly. Shape: (B,)."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)


def best_weights(directions, images, residual: torch.Tensor, rtol: float) -> torch.Tensor:
    """The a with the least ``a . G a / 2 - b . a``, G_ij = (d_i, image_j) and b_i = (d_i, residual), for each cell.

    Directions that depend on each other, up to ``rtol``, share their part. Shape: D fields each -> (B, D).
    """
    gram = torch.stack([torch.stack([inner(d, k) for k in images], -1) for d in directions], -2)  # (B, D, D)
    slope = torch.stack([inner(d, residual) for d in directions], -1)  # (B, D)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal, 1).rsqrt()
    scaled = scale[..., None] * ((gram + gram.mT) / 2) * scale[..., None, :]
    inverse = torch.linalg.pinv(scaled, rtol=rtol, hermitian=True)
    return scale * (inverse @ (scale * slope)[..., None])[..., 0]


Proximal = Callable[[list[torch.Tensor]], torch.Tensor]


def moulinec(equation: GoverningEquation) -> Proximal:
    """f^M(y) = -sum_h Gamma^h * (m^h y), so that y_i = Phi(y_{i-1}) (Moulinec & Suquet 1998).

    Args:
        equation: y = Phi(y).

    Returns:
        f, for :func:`recurrence` and :func:`iterate`.
    """
    return lambda past: equation.perturbation(past[0])  # eq. 25


def gradient_descent(equation: GoverningEquation, step="line_search", direction: str = "gradient") -> Proximal:
    """f^G(y) = y - y_R - gamma d, with d the gradient of half the squared residual.

    A gradient has a mean where y may not have one: ``equation.project`` takes it off. Use each f for one run, since
    the Barzilai-Borwein step remembers the last iterate.

    Args:
        equation: y = Phi(y).
        step: gamma itself, "line_search" (the gamma with the smallest residual) or "barzilai_borwein": s . s / s . t
            from the last changes s of y and t of d (1988), or the length of s over that of t where s . t is not
            positive (Dai, Al-Baali & Yang 2015), as it may be for the residual; the first step by line search.
        direction: "gradient", or "residual" for d = y - Phi(y), which does not square the condition number; with it a
            step of 1 is Moulinec's scheme.

    Returns:
        f, for :func:`recurrence` and :func:`iterate`.

    Raises:
        ValueError: For another name, or a step that is not positive.
    """
    if isinstance(step, str):
        _checks.one_of("step", step, ("line_search", "barzilai_borwein"))
    else:
        step = _checks.positive("step", step)
    _checks.one_of("direction", direction, ("gradient", "residual"))
    last: dict[str, torch.Tensor] = {}

    def descend(past):
        y = past[0]
        residual = equation.residual(y)
        # With A = I + G * B and H = I - A^T A, y - y_R - gamma d = (1 - gamma) (y - y_R) + gamma H y, up to the mean of
        # d, which the projection takes off and the paper's lambda y_R (eq. 28).
        d = equation.project(equation.gradient(residual)) if direction == "gradient" else residual
        if not isinstance(step, str):
            return y - equation.reference - step * d  # eq. 26
        if step == "line_search" or not last:
            image = equation.linearized(d)
            gamma = ratio(inner(residual, image), inner(image, image))
        else:
            s, t = y - last["y"], d - last["d"]
            square, slope = inner(s, s), inner(s, t)
            gamma = torch.where(slope > 0, ratio(square, slope), ratio(square, inner(t, t)).sqrt())
        last.update(y=y, d=d)
        return y - equation.reference - over_cells(gamma, y) * d

    return descend


def anderson(equation: GoverningEquation, depth: int = 5) -> Proximal:
    """Moulinec's f, mixed over the last ``depth`` steps so that the residual is smallest (Anderson 1965).

    Use each f for one run: it remembers those steps.

    Args:
        equation: y = Phi(y).
        depth: How many earlier steps are mixed in.

    Returns:
        f, for :func:`recurrence` and :func:`iterate`.

    Raises:
        ValueError: For a depth below 1.
    """
    depth = _checks.positive_integer("depth", depth)
    images: list[torch.Tensor] = []
    residuals: list[torch.Tensor] = []

    def mix(past):
        images.append(equation.perturbation(past[0]))
        residuals.append(equation.residual(past[0]))
        del images[: -depth - 1], residuals[: -depth - 1]
        mixed = images[-1]
        changes = [new - old for old, new in itertools.pairwise(residuals)]
        if changes:
            weights = best_weights(changes, changes, residuals[-1], rtol=1e-12)
            for n, (old, new) in enumerate(itertools.pairwise(images)):
                mixed = mixed - over_cells(weights[:, n], mixed) * (new - old)
        return mixed

    return mix


#: The iterations on the Lippmann-Schwinger equation that :func:`rlnlib.solve_strain` knows, by name.
ITERATIONS: dict[str, Callable[..., Proximal]] = {
    "fixed_point": moulinec,
    "gradient_descent": gradient_descent,
    "barzilai_borwein": lambda equation: gradient_descent(equation, "barzilai_borwein", "residual"),
    "anderson": anderson,
}

#: A cell whose residual has grown by this factor has diverged.
_DIVERGED = 1e6
#: Residuals below this part of ||y_R|| are rounding: a homogeneous cell has one, up to 1e-14.
_ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-5}


def iterate(
    equation: GoverningEquation, proximal: Proximal, stopping: StoppingRule, watch: Watch | None = None
) -> tuple[torch.Tensor, Statistics]:
    """The loop of Fig. 2a with one f, until ``||y - Phi(y)|| <= max(rtol * ||y_R - Phi(y_R)||, atol)`` for each cell.

    A cell that has converged, or diverged, keeps its best iterate and is left out of account while the others go on. A
    residual that is rounding, of ``_ROUNDING ||y_R||``, counts as converged whatever ``rtol`` is.

    Args:
        equation: y = Phi(y).
        proximal: f, see :func:`moulinec`, :func:`gradient_descent` and :func:`anderson`.
        stopping: When a cell is done.
        watch: Told the number of each iteration and the largest relative residual.

    Returns:
        y like ``equation.reference``, and the statistics.
    """
    best = equation.reference  # F(y_0; m) = y (eq. 21) starts from y_0 = y_R
    first = norm(equation.residual(best))
    threshold = torch.maximum(stopping.threshold(first), _ROUNDING[best.dtype] * norm(best))
    least, sizes = first.clone(), [first]
    iterations = torch.zeros_like(first, dtype=torch.int64)
    active = first > threshold
    passes = (proximal for _ in range(stopping.max_iterations))
    if bool(active.any()):
        for y in recurrence(passes, equation.reference):
            size = norm(equation.residual(y))  # (B,): eq. 24 is half its square
            iterations += active
            sizes.append(torch.where(active, size, torch.nan))
            if watch:
                watch(len(sizes) - 1, float((size / first)[active].max()))
            better = active & (size < least)
            best, least = torch.where(over_cells(better, y), y, best), torch.where(better, size, least)
            active = active & (size > threshold) & (size < _DIVERGED * first)
            if not bool(active.any()):
                break
    scale = torch.where(first > threshold, first, 1)
    residuals = torch.stack(sizes, 1) / scale[:, None]  # (B, I + 1)
    return best, Statistics(least <= threshold, iterations, residuals, least / scale)


def over_cells(value: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """Shape one value for each cell so that it multiplies a field. Shape: (B,), (B, ...) -> (B, 1, ...)."""
    return value.view(-1, *(1,) * (field.ndim - 1))
