"""K u = f by preconditioned conjugate gradients, cell by cell in a batch."""

from collections.abc import Callable

import torch

from rlnlib import fast, solvers
from rlnlib.equilibrium import VoxelProblem
from rlnlib.solvers import Statistics, StoppingRule, Watch, norm, over_cells

#: Fall of the residual after which it is recomputed. In float32 the carried residual is wrong by some 1e-6 of the
#: last recomputed one (measured at contrast 50), so 1e-4 leaves two digits to spare.
REPLACE_AT = 1e-4


def conjugate_gradient(
    problem: VoxelProblem,
    stopping: StoppingRule,
    work_dtype: torch.dtype | None = None,
    watch: Watch | None = None,
    start: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Statistics]:
    """Solve K u = f by preconditioned conjugate gradients (Hestenes & Stiefel 1952).

    The loop is the textbook's: a step along the direction, the residual, the next direction from the preconditioned
    residual. It differs from the textbook in:

    1. Cells. All scalars are one for each cell, and a cell leaves the batch when it is done.
    2. Two precisions. The loop runs in ``work_dtype``, for f minus K times the ``solution`` so far. Each time the
       residual has fallen by ``REPLACE_AT``, what the loop has found is added to ``solution``, and the residual is
       recomputed, both in the problem's own precision (van der Vorst & Ye 2000). So float32 work gives float64
       accuracy.
    3. Honesty. No cell is called done before its recomputed residual says so.
    4. Stalling. A cell whose recomputed residual no longer halves between two replacements stops unconverged.

    Args:
        problem: K, f and the preconditioner.
        stopping: When a cell is done.
        work_dtype: Precision of the loop; by default that of f.
        watch: Told the number of each iteration and the largest relative residual.
        start: Initial u, like f; by default 0. The residual is compared with f all the same.

    Returns:
        u like f, and the statistics.
    """
    inner, advance, turn = _updates(problem.rhs.device)
    rhs_norm = inner(problem.rhs, problem.rhs).sqrt()
    threshold = stopping.threshold(rhs_norm)
    if start is None:
        solution, first, true_norm = torch.zeros_like(problem.rhs), problem.rhs, rhs_norm.clone()
    else:
        solution = start.to(problem.rhs).clone()
        first = problem.rhs - problem.apply(solution)
        true_norm = inner(first, first).sqrt()
    iterations = torch.zeros(len(rhs_norm), dtype=torch.int64, device=rhs_norm.device)
    # By iteration and cell; no tensors, which would stay between large fields and break up their memory.
    sizes = [dict(enumerate(true_norm.tolist()))]
    active = torch.nonzero(true_norm > threshold).flatten()  # the start solves the others
    if len(active):
        work = problem.select(active).to(work_dtype or problem.rhs.dtype)
        residual = first[active].to(work.rhs)  # (A, 3, N1, N2, N3) for the A cells that still iterate
        del first
        u = torch.zeros_like(residual)
        direction = work.precondition(residual).clone()  # a copy: for K_0 = 1 it would be the residual itself
        rz = inner(residual, direction)  # (A,)
        level, numbers = torch.maximum(threshold, REPLACE_AT * true_norm)[active], active.tolist()
    while len(active):
        image = work.apply(direction)
        size = advance(u, residual, rz / inner(direction, image), direction, image).to(rhs_norm)
        step = len(sizes)
        sizes.append(dict(zip(numbers, size.tolist(), strict=True)))
        if watch:
            watch(step, float((size / rhs_norm[active]).max()))
        spent = step >= stopping.max_iterations
        # Written so that a NaN, from a direction without energy, is due too.
        due = ~(size > level) | spent
        if bool(due.any()):
            del image  # no more than must be is in memory now, when float64 fields join it
            cells, part = active[due], problem.select(active[due])
            iterations[cells] = step
            found = (u if len(part.rhs) == len(u) else u[due]).nan_to_num_(0, 0, 0)
            _add(solution, cells, found)  # (2.)
            exact = part.apply(solution if len(cells) == len(solution) else solution[cells]).neg_().add_(part.rhs)
            exact_norm = inner(exact, exact).sqrt()
            better = exact_norm < true_norm[cells]
            stalled = ~(exact_norm < 0.5 * true_norm[cells])  # (4.)
            if not bool(better.all()):
                _add(solution, cells[~better], -found[~better])
            true_norm[cells[better]] = exact_norm[better]
            where = torch.nonzero(due).flatten()  # whole cells by number: u[due] = 0 takes 40 times as long
            residual.index_copy_(0, where, exact.to(residual))
            u.index_fill_(0, where, 0)
            del exact, found
            going = torch.ones_like(due)
            going[due] = (true_norm[cells] > threshold[cells]) & ~(stalled | spent)  # (3.)
            if not bool(going.all()):  # (1.)
                keep = torch.nonzero(going).flatten()
                active, work, rz = active[keep], work.select(keep), rz[keep]
                u, residual, direction = (field.index_select(0, keep) for field in (u, residual, direction))
                if not len(active):
                    break
            level, numbers = torch.maximum(threshold, REPLACE_AT * true_norm)[active], active.tolist()
        z = work.precondition(residual)
        rz_new = inner(residual, z)
        turn(direction, rz_new / rz, z)
        rz = rz_new
        del z
    scale = torch.where(rhs_norm > 0, rhs_norm, 1)
    of_cells = [[size.get(cell, torch.nan) for size in sizes] for cell in range(len(scale))]
    residuals = torch.tensor(of_cells, dtype=scale.dtype, device=scale.device) / scale[:, None]
    return solution, Statistics(true_norm <= threshold, iterations, residuals, true_norm / scale)


def _updates(device: torch.device) -> tuple[Callable, Callable, Callable]:
    """The scalar product by cell, and the two updates of a step: fast ones, or their plain twins."""
    if fast.use(device):
        return fast.loops.inner, fast.loops.advance, fast.loops.turn
    return solvers.inner, _advance, _turn


def _advance(u, residual, step, direction, image) -> torch.Tensor:
    """u += step direction, residual -= step image, in place.

    Returns:
        The norm of the residual, (B,).
    """
    u.addcmul_(over_cells(step, u), direction)
    residual.addcmul_(over_cells(step, u), image, value=-1)
    return norm(residual)


def _turn(direction, factor, z) -> None:
    """direction = factor direction + z, in place. Shape: factor (B,)."""
    direction.mul_(over_cells(factor, z)).add_(z)


def _add(solution, cells, found) -> None:
    """Add to some cells of the solution, component by component: a sum of two precisions takes room for a copy."""
    for i in range(solution.shape[1]):
        solution[:, i].index_add_(0, cells, found[:, i].to(solution))
