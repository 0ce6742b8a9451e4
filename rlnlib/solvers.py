r"""Iterations for K u = f on a batch of cells, and what they return.

Each cell stops by itself, when ``||f - K u|| <= max(rtol * ||f||, atol)``, and costs nothing afterwards. The
residual is recomputed from u at the end; the one that the recurrence carries drifts (by 1e-6 of ||f|| in float32).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Protocol

import torch

from rlnlib import _checks


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


class LinearProblem(Protocol):
    """K u = f for a batch: what an iteration needs to know."""

    rhs: torch.Tensor

    def apply(self, u: torch.Tensor) -> torch.Tensor: ...

    def precondition(self, residual: torch.Tensor) -> torch.Tensor: ...

    def select(self, keep: torch.Tensor) -> LinearProblem: ...


@dataclass
class Statistics:
    """How an iteration went, by cell: see :class:`Solution`."""

    converged: torch.Tensor
    iterations: torch.Tensor
    residuals: torch.Tensor
    residual: torch.Tensor


def norm(field: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each cell's field. Shape: (B, ...) -> (B,)."""
    return torch.linalg.vector_norm(field.flatten(1), dim=1)


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Scalar product of each cell's fields. Shape: (B, ...), (B, ...) -> (B,)."""
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))


def conjugate_gradient(problem: LinearProblem, stopping: StoppingRule) -> tuple[torch.Tensor, Statistics]:
    """Preconditioned conjugate gradients (Hestenes & Stiefel 1952) from u = 0.

    A cell leaves the batch when it has converged. Where the recomputed residual misses the threshold (rounding),
    the iteration starts again from the iterate, as long as that helps.

    Shape: -> u like ``problem.rhs``, statistics.
    """
    rhs = problem.rhs
    rhs_norm = norm(rhs)
    threshold = stopping.threshold(rhs_norm)
    u = torch.zeros_like(rhs)
    iterations = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
    residual, true_norm = rhs, rhs_norm
    history = [rhs_norm]
    pending = torch.nonzero(true_norm > threshold).flatten()  # a zero right-hand side is solved by u = 0
    while len(pending):
        part = problem.select(pending)
        correction = _descend(part, residual[pending], threshold[pending], pending, iterations, history, stopping)
        u[pending] += correction
        residual = residual.clone()
        residual[pending] = part.rhs - part.apply(u[pending])
        before, true_norm = true_norm, norm(residual)
        gained = true_norm < 0.5 * before
        pending = torch.nonzero((true_norm > threshold) & gained & (iterations < stopping.max_iterations)).flatten()
    scale = torch.where(rhs_norm > 0, rhs_norm, 1)
    residuals = torch.stack(history, 1) / scale[:, None]
    return u, Statistics(true_norm <= threshold, iterations, residuals, true_norm / scale)


def _descend(problem, residual, threshold, index, iterations, history, stopping) -> torch.Tensor:
    """One uninterrupted run; returns the correction and writes ``iterations`` and ``history`` at ``index``."""
    correction = torch.zeros_like(residual)
    rows = torch.arange(len(index), device=index.device)  # the cells of ``correction`` still at work
    u = torch.zeros_like(residual)
    z = problem.precondition(residual)
    direction, rz = z, inner(residual, z)
    while True:
        image = problem.apply(direction)
        step = _over_cells(rz / inner(direction, image), u)
        u.addcmul_(step, direction)
        residual = torch.addcmul(residual, step, image, value=-1)
        size = norm(residual)
        active = index[rows]
        iterations[active] += 1
        entry = torch.full_like(history[0], torch.nan)
        entry[active] = size
        history.append(entry)
        # A NaN step is a breakdown (direction without energy): such a cell stops with what it has.
        going = (size > threshold[rows]) & (iterations[active] < stopping.max_iterations)
        if not bool(going.all()):
            correction[rows] = torch.where(_over_cells(size.isfinite(), u), u, 0)
            keep = torch.nonzero(going).flatten()
            if not len(keep):
                return correction
            problem, rows, rz = problem.select(keep), rows[keep], rz[keep]
            u, residual, direction = u[keep], residual[keep], direction[keep]
        z = problem.precondition(residual)
        rz_new = inner(residual, z)
        direction = torch.addcmul(z, _over_cells(rz_new / rz, z), direction)
        rz = rz_new


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
        shown = ", ".join(f"{cell} (residual {float(solution.residual[cell]):.1e})" for cell in failed[:5])
        warnings.warn(
            f"{len(failed)} of {len(solution.converged)} cells did not reach rtol={stopping.rtol:g}, "
            f"atol={stopping.atol:g} within {stopping.max_iterations} iterations: cell {shown}"
            f"{', ...' if len(failed) > 5 else ''}. Their best iterates are returned; raise max_iterations, "
            f"loosen rtol, or use dtype=torch.float64.",
            RuntimeWarning,
            stacklevel=3,
        )
