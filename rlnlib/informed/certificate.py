r"""||u - u*||_K^2 = r . K^-1 r <= r . K_0^-1 r for K_0 <= K: how far a field is from the solution, without knowing it.

r = f - K u is the residual, and K_0 belongs to a homogeneous medium that is nowhere stiffer than the cell, whose
inverse is the Green operator. The energy W(u) is above the least one, W*, by half the left side. So the effective
stiffness along the macroscopic strain e lies between two known numbers, whoever proposed u:

    2 W(u) - r . K_0^-1 r  <=  2 W* = e : C_eff : e  <=  2 W(u)   (per volume)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from rlnlib import elasticity, green, solvers
from rlnlib.equilibrium import VoxelProblem
from rlnlib.solvers import Statistics, over_cells, ratio


def softest_medium(phases) -> tuple[float, float]:
    """The stiffest isotropic medium that no phase is softer than: it has their smallest bulk and shear modulus.

    Args:
        phases: (young, poisson) of each phase.

    Returns:
        Its (young, poisson), in the unit of the phases.
    """
    lame = [elasticity.lame_parameters(*phase) for phase in phases]
    bulk, shear = min(lam + 2 * mu / 3 for lam, mu in lame), min(mu for _, mu in lame)
    return 9 * bulk * shear / (3 * bulk + shear), (3 * bulk - 2 * shear) / (2 * (3 * bulk + shear))


def energy_bounds(
    problem: VoxelProblem, u: torch.Tensor, macroscopic_strain: torch.Tensor, reference: green.GreenOperator
) -> torch.Tensor:
    """Bounds of e : C_eff : e, from one application of K and one of the Green operator.

    Args:
        problem: K and f of the cells, in float64 for bounds that rounding does not move.
        u: any periodic displacement, (B, 3, N1, N2, N3).
        macroscopic_strain: e, (B, 6), Mandel.
        reference: Green operator of any isotropic medium; it is scaled by the largest factor for which no voxel is
            softer. The tightest is that of :func:`softest_medium`.

    Returns:
        Lower and upper bound, (B, 2), in the unit of the moduli times that of the strain squared. A lower one
        below 0 says nothing: the field is far off.
    """
    image = problem.apply(u)
    residual, voxels = problem.rhs - image, u[0, 0].numel()
    error = solvers.inner(residual, reference.displacement(residual)) / _factor(problem, reference) / voxels
    strain = macroscopic_strain.to(u)
    uniform = strain.view(-1, 6, 1, 1, 1).expand(-1, -1, *u.shape[2:])  # (B, 6, N...)
    stress = elasticity.hooke(uniform, *elasticity.lame_fields(problem.moduli, problem.basis))
    mean = solvers.inner(stress, uniform) / voxels
    upper = mean + solvers.inner(u, image - 2 * problem.rhs) / voxels
    return torch.stack([upper - error, upper], 1)


def _factor(problem: VoxelProblem, reference: green.GreenOperator) -> torch.Tensor:
    """The largest s of each cell with s C_reference <= C in every voxel. Shape: -> (B,)."""
    lam, mu = elasticity.lame_fields(problem.moduli, problem.basis)
    reference_lam, reference_mu = reference.lame
    bulk_ratio = (lam + 2 * mu / 3) / (reference_lam + 2 * reference_mu / 3)
    return torch.minimum(bulk_ratio, mu / reference_mu).flatten(1).amin(1)


#: Proposes a direction from the iterate and its residual f - K u.
Proposal = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def guarded_steps(
    problem: VoxelProblem, start: torch.Tensor, proposals: Iterable[Proposal | None]
) -> Iterator[torch.Tensor]:
    """Conjugate gradients, and beside them the least energy over their iterate and what was proposed.

    After k passes the answer is u_k = x_k + a (u_{k-1} - x_k) + b s + c d: x_k is the iterate of preconditioned
    conjugate gradients (Hestenes & Stiefel 1952), s the last step of the answer and d the direction proposed at
    u_{k-1}; a, b and c minimize the energy. They may be zero. So after every pass W(u_k) <= W(x_k), whoever proposes
    what, and u converges as conjugate gradients do. A proposal costs one application of K more than an
    iteration.

    Args:
        problem: K and f, in float64.
        start: x_0 = u_0, (B, 3, N1, N2, N3).
        proposals: one for each pass, None for none. What is not finite in a proposal counts as zero.

    Yields:
        u_k after each pass, (B, 3, N1, N2, N3).
    """
    x, u = start, start
    residual = problem.rhs - problem.apply(x)  # f - K x
    of_answer, step = residual, torch.zeros_like(x)  # f - K u
    direction = z = problem.precondition(residual)
    image_of_step = step
    rz = solvers.inner(residual, z)
    for propose in proposals:
        image = problem.apply(direction.contiguous())
        length = over_cells(ratio(rz, solvers.inner(direction, image)), x)
        x, residual = x + length * direction, residual - length * image
        z = problem.precondition(residual)
        rz, before = solvers.inner(residual, z), rz
        direction = z + over_cells(ratio(rz, before), x) * direction
        if propose is None:
            proposed = image_of_proposal = torch.zeros_like(x)
        else:
            proposed = _usable(propose(u, of_answer).detach().to(x))
            image_of_proposal = problem.apply(proposed)
        directions = [u - x, step, proposed]
        images = [residual - of_answer, image_of_step, image_of_proposal]  # K u - K x = (f - K x) - (f - K u)
        weights = solvers.best_weights(directions, images, residual, rtol=1e-10).view(-1, 3, 1, 1, 1, 1).unbind(1)
        answer = x + sum((w * d for w, d in zip(weights, directions, strict=True)), torch.zeros_like(x))
        new = residual - sum((w * k for w, k in zip(weights, images, strict=True)), torch.zeros_like(x))
        step, image_of_step = answer - u, of_answer - new
        u, of_answer = answer, new
        yield u


def _usable(proposed: torch.Tensor) -> torch.Tensor:
    """Divide a direction by its largest value; zero where that is not finite. Shape: (B, 3, N...) -> the same."""
    largest = proposed.abs().amax((1, 2, 3, 4), keepdim=True)
    usable = torch.isfinite(largest) & (largest > 0)
    return torch.where(usable, proposed / torch.where(usable, largest, 1), 0).contiguous()


def solve_within_bounds(
    problem: VoxelProblem, u: torch.Tensor, macroscopic_strain: torch.Tensor, energy_rtol: float | None, most: int
) -> tuple[torch.Tensor, Statistics]:
    """Go on from u by conjugate gradients until the bounds are close enough, relative to the upper one.

    Args:
        problem: K, f, and the reference medium of the bounds.
        u: the start, (B, 3, N1, N2, N3).
        macroscopic_strain: (B, 6).
        energy_rtol: the tolerance; None for no iteration at all.
        most: iterations, at most.

    Returns:
        u, and the statistics; without a tolerance, a cell has converged only where its residual is 0.
    """
    scale = solvers.norm(problem.rhs)
    scale = torch.where(scale > 0, scale, 1)

    def residual():
        return solvers.norm(problem.rhs - problem.apply(u)) / scale

    def met(tolerance: float):
        lower, upper = energy_bounds(problem, u, macroscopic_strain, problem.operator).unbind(1)
        return upper - lower <= tolerance * upper

    sizes = [residual()]
    converged, iterations = sizes[0] == 0, torch.zeros(len(u), dtype=torch.int64, device=u.device)
    if energy_rtol is not None:
        steps = guarded_steps(problem, u, [None] * most)
        converged = met(energy_rtol)
        while not bool(converged.all()) and (following := next(steps, None)) is not None:
            iterations += ~converged
            u = torch.where(converged.view(-1, 1, 1, 1, 1), u, following)
            sizes.append(torch.where(converged, torch.nan, residual()))
            converged = met(energy_rtol)
    return u, Statistics(converged, iterations, torch.stack(sizes, 1), residual())
