r"""Iterations for K u = f and for y = Phi(y) on a batch of cells, and what they return.

Each cell stops by itself, when ``||f - K u|| <= max(rtol * ||f||, atol)`` for the residual recomputed from u; for
y = Phi(y) the residual is y - Phi(y), and that of y_R takes the place of f.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from rlnlib import _checks, fast

#: Fall of the residual after which it is recomputed. In float32 the carried residual is wrong by some 1e-6 of the
#: last recomputed one (measured at contrast 50), so 1e-4 leaves two digits to spare.
REPLACE_AT = 1e-4


def recurrence(proximals, reference: torch.Tensor, history: int = 0) -> Iterator[torch.Tensor]:
    """The loop of Fig. 2a, y_i = y_R + f_i(y_{i-1}, y_{i-2}, ...; m) (eq. 22), from y_0 = y_R.

    ``proximals`` are the f_i, one for each pass: functions of a list of ``1 + history`` iterates, newest first
    (zeros before there are so many), that know the microstructure. Fixed-point and gradient schemes differ from
    the learned ones only in f_i.

    Shape: every field like ``reference``; yields y_1, y_2, ...
    """
    past = [reference] + [torch.zeros_like(reference)] * history
    for proximal in proximals:
        past = [reference + proximal(past), *past][: 1 + history]
        yield past[0]


@dataclass(frozen=True)
class StoppingRule:
    """``||residual|| <= max(rtol * ||rhs||, atol)`` for each cell, after at most ``max_iterations``."""

    rtol: float = 1e-8
    atol: float = 0.0
    max_iterations: int = 2000

    def __post_init__(self):
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number that is not negative; it is {value!r}.")
        if self.rtol == 0 and self.atol == 0:
            raise ValueError("rtol and atol are both 0, which no iteration can reach: set one of them above 0.")
        _checks.positive_integer("max_iterations", self.max_iterations)

    def threshold(self, rhs_norm: torch.Tensor) -> torch.Tensor:
        return torch.clamp(self.rtol * rhs_norm, min=self.atol)


@dataclass(frozen=True)
class Solution:
    """Fields and statistics of a batch of cells; the mean over the integration points of each voxel.

    Shape: ``strain`` and ``stress`` (B, 6, N1, N2, N3), Mandel; ``effective_stress`` (B, 6), the volume mean;
    ``converged`` (B,) bool; ``iterations`` (B,) int; ``residuals`` (B, I + 1), ||residual|| / ||rhs|| before each
    iteration and after the last, NaN once a cell has stopped; ``residual`` (B,), the same recomputed at the end.
    Strains have the unit of the macroscopic strain; stresses that times the unit of the moduli.
    """

    strain: torch.Tensor
    stress: torch.Tensor
    effective_stress: torch.Tensor
    converged: torch.Tensor
    iterations: torch.Tensor
    residuals: torch.Tensor
    residual: torch.Tensor

    def to(self, dtype: torch.dtype) -> Solution:
        """The same with its fields and effective stress in another precision."""
        fields = {name: getattr(self, name).to(dtype) for name in ("strain", "stress", "effective_stress")}
        return replace(self, **fields)


class LinearProblem(Protocol):
    """K u = f for a batch: what an iteration needs to know."""

    rhs: torch.Tensor

    def apply(self, u: torch.Tensor) -> torch.Tensor: ...

    def precondition(self, residual: torch.Tensor) -> torch.Tensor: ...

    def select(self, keep: torch.Tensor) -> LinearProblem: ...

    def to(self, dtype: torch.dtype) -> LinearProblem: ...


#: Told the number of each iteration, and the largest relative residual of the cells that still iterate.
Watch = Callable[[int, float], None]


@dataclass
class Statistics:
    """How an iteration went, by cell: see :class:`Solution`."""

    converged: torch.Tensor
    iterations: torch.Tensor
    residuals: torch.Tensor
    residual: torch.Tensor


def norm(field: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each cell's field. Shape: (B, ...) -> (B,)."""
    return inner(field, field).sqrt()


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Scalar product of each cell's fields. Shape: (B, C, N1, N2, N3) twice -> (B,).

    Summed plane by plane and then over the planes: the order, and so the last bit, does not depend on the number of
    threads or on the batch, as it does in one sum over all.
    """
    return (a * b).sum((-1, -2)).flatten(1).sum(1)


def conjugate_gradient(
    problem: LinearProblem,
    stopping: StoppingRule,
    work_dtype: torch.dtype | None = None,
    watch: Watch | None = None,
) -> tuple[torch.Tensor, Statistics]:
    """Preconditioned conjugate gradients (Hestenes & Stiefel 1952) from u = 0.

    The recurrences run in ``work_dtype``; u is summed, and the residual replaced by the recomputed one, in the
    problem's own precision each time the residual has fallen by ``REPLACE_AT`` and before a cell is called done
    (van der Vorst & Ye 2000). So float32 work gives float64 accuracy. A cell leaves the batch when it is done; one
    whose recomputed residual no longer halves between two replacements has stalled, and stops unconverged.

    Shape: -> u like ``problem.rhs``, statistics.
    """
    rhs_norm = norm(problem.rhs)
    threshold = stopping.threshold(rhs_norm)
    solution, true_norm = torch.zeros_like(problem.rhs), rhs_norm.clone()
    iterations = torch.zeros(len(rhs_norm), dtype=torch.int64, device=rhs_norm.device)
    history = [rhs_norm.clone()]
    active = torch.nonzero(rhs_norm > threshold).flatten()  # u = 0 solves the others
    if len(active):
        work = problem.select(active).to(work_dtype or problem.rhs.dtype)
        residual, u = work.rhs.clone(), torch.zeros_like(work.rhs)
        direction = work.precondition(residual).clone()  # both are changed in place, and may be one for K_0 = 1
        rz = _inner(residual, direction)
    while len(active):
        image = work.apply(direction)
        size = _advance(u, residual, rz / _inner(direction, image), direction, image).to(rhs_norm)
        iterations[active] += 1
        history.append(torch.full_like(rhs_norm, torch.nan).index_copy(0, active, size))
        if watch:
            watch(len(history) - 1, float((size / rhs_norm[active]).max()))
        spent = iterations[active] >= stopping.max_iterations
        # Written so that a NaN, from a direction without energy, is due too.
        due = ~(size > torch.maximum(threshold, REPLACE_AT * true_norm)[active]) | spent
        if bool(due.any()):
            cells, part = active[due], problem.select(active[due])
            candidate = solution[cells] + u[due].to(solution)
            exact = part.rhs - part.apply(candidate)
            exact_norm = norm(exact)
            better = exact_norm < true_norm[cells]
            stalled = ~(exact_norm < 0.5 * true_norm[cells])
            solution[cells] = torch.where(_over_cells(better, candidate), candidate, solution[cells])
            true_norm[cells] = torch.where(better, exact_norm, true_norm[cells])
            residual[due], u[due] = exact.to(residual), 0
            going = torch.ones_like(due)
            going[due] = (true_norm[cells] > threshold[cells]) & ~stalled & ~spent[due]
            if not bool(going.all()):
                keep = torch.nonzero(going).flatten()
                active, work, rz = active[keep], work.select(keep), rz[keep]
                u, residual, direction = u[keep], residual[keep], direction[keep]
                if not len(active):
                    break
        z = work.precondition(residual)
        rz_new = _inner(residual, z)
        direction = direction.mul_(_over_cells(rz_new / rz, z)).add_(z)
        rz = rz_new
    scale = torch.where(rhs_norm > 0, rhs_norm, 1)
    residuals = torch.stack(history, 1) / scale[:, None]
    return solution, Statistics(true_norm <= threshold, iterations, residuals, true_norm / scale)


def _inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """:func:`inner` of contiguous fields."""
    return fast.loops.inner(a, b) if fast.use(a.device) else inner(a, b)


def _advance(u, residual, step, direction, image) -> torch.Tensor:
    """u += step direction, residual -= step image, in place; returns the residual's norm. Shape: step (B,) -> (B,)."""
    if fast.use(u.device):
        return fast.loops.advance(u, residual, step, direction, image)
    u.addcmul_(_over_cells(step, u), direction)
    residual.addcmul_(_over_cells(step, u), image, value=-1)
    return norm(residual)


class FixedPointEquation(Protocol):
    """y = Phi(y) for a batch; see :class:`rlnlib.lippmann_schwinger.GoverningEquation`."""

    reference: torch.Tensor

    def perturbation(self, y: torch.Tensor) -> torch.Tensor: ...

    def residual(self, y: torch.Tensor) -> torch.Tensor: ...

    def linearized(self, direction: torch.Tensor) -> torch.Tensor: ...

    def gradient(self, residual: torch.Tensor) -> torch.Tensor: ...

    def project(self, y: torch.Tensor) -> torch.Tensor: ...


Proximal = Callable[[list[torch.Tensor]], torch.Tensor]


def moulinec(equation: FixedPointEquation) -> Proximal:
    """f^M(y) = -sum_h Gamma^h * (m^h y) (eq. 25), so that y_i = Phi(y_{i-1}) (Moulinec & Suquet 1998)."""
    return lambda past: equation.perturbation(past[0])


def gradient_descent(equation: FixedPointEquation, step="line_search", direction: str = "gradient") -> Proximal:
    """f^G(y) = y - y_R - gamma d, with d the gradient of half the squared residual (eqs. 26 to 28).

    ``step`` is gamma itself, "line_search" (the gamma with the smallest residual) or "barzilai_borwein" (from the
    last two iterates, 1988; the first step by line search). ``direction`` "residual" takes d = y - Phi(y) instead,
    which does not square the condition number; with it a step of 1 is Moulinec's scheme.

    A gradient has a mean where y may not have one, which :meth:`project` takes off. Use each f for one run: the
    Barzilai-Borwein step remembers the last iterate.
    Raises ValueError for another name, or a step that is not positive.
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
        d = equation.project(equation.gradient(residual)) if direction == "gradient" else residual
        if not isinstance(step, str):
            return y - equation.reference - step * d
        if step == "line_search" or not last:
            image = equation.linearized(d)
            gamma = _ratio(inner(residual, image), inner(image, image))
        else:
            s = y - last["y"]
            gamma = _ratio(inner(s, s), inner(s, d - last["d"]))
        last.update(y=y, d=d)
        return y - equation.reference - _over_cells(gamma, y) * d

    return descend


def anderson(equation: FixedPointEquation, depth: int = 5) -> Proximal:
    """Moulinec's f, mixed over the last ``depth`` steps so that the residual is smallest (Anderson 1965).

    Use each f for one run: it remembers those steps. Raises ValueError for a depth below 1.
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
            gram = torch.stack([torch.stack([inner(a, b) for b in changes], -1) for a in changes], -2)  # (B, D, D)
            slope = torch.stack([inner(a, residuals[-1]) for a in changes], -1)
            scale = gram.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(gram.dtype).tiny).rsqrt()
            scaled = scale[..., None] * gram * scale[..., None, :]
            inverse = torch.linalg.pinv(scaled, rtol=1e-12, hermitian=True)
            weights = scale * (inverse @ (scale * slope)[..., None])[..., 0]
            for n, (old, new) in enumerate(itertools.pairwise(images)):
                mixed = mixed - _over_cells(weights[:, n], mixed) * (new - old)
        return mixed

    return mix


#: The iterations on the Lippmann-Schwinger equation that :func:`rlnlib.solve_strain` knows, by name.
ITERATIONS: dict[str, Callable[[FixedPointEquation], Proximal]] = {
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
    equation: FixedPointEquation, proximal: Proximal, stopping: StoppingRule, watch: Watch | None = None
) -> tuple[torch.Tensor, Statistics]:
    """The loop of Fig. 2a with one f, until ``||y - Phi(y)|| <= max(rtol * ||y_R - Phi(y_R)||, atol)`` for each cell.

    A cell that has converged, or diverged, keeps its best iterate and is left out of account while the others go on.

    Shape: -> y like ``equation.reference``, statistics.
    """
    best = equation.reference
    first = norm(equation.residual(best))
    threshold = torch.maximum(stopping.threshold(first), _ROUNDING[best.dtype] * norm(best))
    least, history = first.clone(), [first]
    iterations = torch.zeros_like(first, dtype=torch.int64)
    active = first > threshold
    passes = (proximal for _ in range(stopping.max_iterations))
    if bool(active.any()):
        for y in recurrence(passes, equation.reference):
            size = norm(equation.residual(y))
            iterations += active
            history.append(torch.where(active, size, torch.nan))
            if watch:
                watch(len(history) - 1, float((size / first)[active].max()))
            better = active & (size < least)
            best, least = torch.where(_over_cells(better, y), y, best), torch.where(better, size, least)
            active = active & (size > threshold) & (size < _DIVERGED * first)
            if not bool(active.any()):
                break
    scale = torch.where(first > threshold, first, 1)
    residuals = torch.stack(history, 1) / scale[:, None]
    return best, Statistics(least <= threshold, iterations, residuals, least / scale)


def _ratio(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a / b for each cell; 0 where b is not positive, as for a cell that is solved exactly."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)


def _over_cells(value: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    return value.view(-1, *(1,) * (field.ndim - 1))


def concatenate(parts: list[Solution]) -> Solution:
    """One solution from those of consecutive parts of a batch."""
    if len(parts) == 1:
        return parts[0]
    length = max(part.residuals.shape[1] for part in parts)
    fields = {name: [getattr(part, name) for part in parts] for name in Solution.__dataclass_fields__}
    fields["residuals"] = [
        torch.nn.functional.pad(r, (0, length - r.shape[1]), value=torch.nan) for r in fields["residuals"]
    ]
    return Solution(**{name: torch.cat(values) for name, values in fields.items()})


def warn_of_failures(solution: Solution, stopping: StoppingRule) -> None:
    """One warning that names the cells without convergence, how far they came and what helps."""
    failed = torch.nonzero(~solution.converged).flatten().tolist()
    if failed:
        shown = ", ".join(
            f"{cell} (residual {float(solution.residual[cell]):.1e} after {int(solution.iterations[cell])} iterations)"
            for cell in failed[:5]
        )
        warnings.warn(
            f"{len(failed)} of {len(solution.converged)} cells did not reach rtol={stopping.rtol:g}, "
            f"atol={stopping.atol:g}: cell {shown}{', ...' if len(failed) > 5 else ''}. Their best iterates are "
            f"returned. Where all {stopping.max_iterations} iterations were spent, raise max_iterations; else "
            f"loosen rtol, or, with a solver on the Lippmann-Schwinger equation, choose a stiffer reference.",
            RuntimeWarning,
            stacklevel=3,
        )
