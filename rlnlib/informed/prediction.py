"""Predict with the informed network: any load by turns and superposition, with bounds, and on to the solution."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import replace

import torch

from rlnlib import _checks, fast
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.inference import BATCH_VOXELS, LEAST_BYTES
from rlnlib.informed import certificate
from rlnlib.informed.network import Cells, InformedRLN
from rlnlib.method import first_strain, kept_operator, split_load, strain_of_mixed_load
from rlnlib.problem import CellProblem, cell_problem
from rlnlib.solution import Solution, join, warn_of_failures
from rlnlib.solvers import StoppingRule
from rlnlib.voxel_fe import VoxelProblem

#: The load that a network was trained on, (axial, shear) = (11, 12), and the two axes whose exchange leads to it, for
#: each Mandel component 11, 22, 33, 23, 13, 12.
_TRAINED = ((0, (0, 0)), (0, (0, 1)), (0, (0, 2)), (5, (0, 2)), (5, (1, 2)), (5, (0, 0)))


def predict(
    model: InformedRLN,
    stiff,
    contrast: float | None = None,
    poisson: float = 0.3,
    macroscopic_strain=None,
    phases: list[tuple[float, float]] | None = None,
    rtol: float | None = None,
    energy_rtol: float | None = None,
    max_iterations: int = 2000,
    guaranteed: bool = False,
    network_dtype: torch.dtype = torch.float32,
    dtype: torch.dtype = torch.float64,
    device=None,
    spacing=(1, 1, 1),
    macroscopic_stress=None,
) -> Solution:
    """Predict strain and stress of periodic cells, and bound the effective stiffness along the macroscopic strain.

    The network predicts one field for each component of the macroscopic strain that is not zero, turned to the axial
    or the shear load that it was trained on by an exchange of axes; the fields add up, as the equation is linear. Each
    is scaled to its least energy: so one far off the mark does little harm. Beyond the contrast of the training, 300
    for the shipped network, errors grow: a RuntimeWarning says so where no tolerance is given.

    Args:
        model: the network; it is used in evaluation mode and left as it was.
        stiff, contrast, poisson, macroscopic_strain, phases: as for :func:`rlnlib.solve_strain`.
        rtol: go on from the prediction by conjugate gradients until ``||f - K u|| <= rtol ||f||``.
        energy_rtol: go on until the bounds are as close as that, relative to the upper one. One of the two at most.
        max_iterations: of conjugate gradients.
        guaranteed: take the passes of :meth:`InformedRLN.guaranteed`: the energy is at most that of as many iterations
            of conjugate gradients. Where the macroscopic strain has several components, each has such passes, and their
            sums are proposals in passes of the whole.
        network_dtype: torch.bfloat16 runs the convolutions in reduced precision.
        dtype: of the answer's fields. All but the network is computed in float64.
        device: where to compute; by default where the model is.
        spacing: edges of a voxel, three equal ones: the network knows cubes only. They scale the displacement.
        macroscopic_stress: as for :func:`rlnlib.solve_strain`. The mean strain comes from a prediction for each
            component with a prescribed stress, and one for the others, so that the mean stress of the prediction is
            what was asked for; with a tolerance, that of the solution is so within the tolerance.

    Returns:
        A :class:`~rlnlib.solution.Solution` with ``displacement`` and ``energy_bounds``. ``iterations`` counts those
        of conjugate gradients. Without a tolerance, ``converged`` is True only for a cell whose residual is 0.

    Raises:
        ValueError: for whatever :func:`rlnlib.solve_strain` refuses, voxels that are no cubes, or an odd axis that is
            too short for the network; or where the memory does not suffice.
    """
    if not isinstance(model, InformedRLN):
        raise ValueError(
            f"model must be the network of load_pretrained('informed') or another InformedRLN, not a "
            f"{type(model).__name__}; rlnlib.predict_strain serves the networks of the paper."
        )
    load = first_strain(macroscopic_strain, macroscopic_stress)
    problem = cell_problem(stiff, contrast, poisson, load, phases, spacing)
    if problem.stiffness is not None:
        raise ValueError("phases must be (young, poisson) pairs: the network knows isotropic materials only.")
    edge = _edge_of_cubes(problem.spacing)
    problem = replace(problem, spacing=(1.0, 1.0, 1.0))
    _checks.floating(dtype)
    _checks.floating(network_dtype, (torch.float32, torch.bfloat16), "network_dtype")
    guaranteed = _checks.boolean("guaranteed", guaranteed)
    if rtol is not None and energy_rtol is not None:
        raise ValueError("Give rtol or energy_rtol, and not both.")
    if energy_rtol is not None:
        _checks.positive("energy_rtol", energy_rtol)
    stopping = StoppingRule(1.0 if rtol is None else rtol, max_iterations=max_iterations)
    home = next(model.parameters()).device
    device = _checks.as_device(device, home)
    if device.type == "cpu":
        _checks.memory(f"A prediction of {problem.shape} voxels", LEAST_BYTES * math.prod(problem.shape))
    young = [young for young, _ in problem.phases]
    if rtol is None and energy_rtol is None and (ratio := max(young) / min(young)) > model.largest_contrast:
        warnings.warn(
            f"The contrast is {ratio:g}, and the network was trained up to {model.largest_contrast:g}: look at the "
            f"bounds of the answer, give rtol or energy_rtol to go on from it, or call rlnlib.solve_strain.",
            RuntimeWarning,
            stacklevel=2,
        )
    reference = kept_operator(problem.shape, "bbar", *certificate.softest_medium(problem.phases), device=device)
    together, workers = fast.cores.chunking(math.prod(problem.shape), device, BATCH_VOXELS)
    together = min(together, math.ceil(len(problem) / workers))  # few cells keep all workers busy, too

    @torch.no_grad()  # here, since it holds for one thread
    def answer(problem: CellProblem, first: int) -> Solution:
        cells = problem.part(slice(first, first + together), device)
        equilibrium = VoxelProblem(cells, reference)
        sums = _superposed(model, cells, guaranteed, network_dtype)
        if guaranteed and bool(((cells.macroscopic_strain != 0).sum(1) > 1).any()):
            proposals = [lambda u, residual, total=total: total - u for total in sums]
            sums = list(certificate.guarded_steps(equilibrium, torch.zeros_like(sums[-1]), proposals))
        u = sums[-1] - sums[-1].mean((2, 3, 4), keepdim=True)
        if rtol is not None:
            u, statistics = conjugate_gradient(equilibrium, stopping, start=u)
        else:
            u, statistics = certificate.solve_within_bounds(
                equilibrium, u, cells.macroscopic_strain, energy_rtol, max_iterations
            )
        strain = equilibrium.strain(u, cells.macroscopic_strain)
        stress = cells.law(strain.dtype)(strain)
        bounds = certificate.energy_bounds(equilibrium, u, cells.macroscopic_strain, reference)
        known = {**vars(statistics), "displacement": edge * u, "energy_bounds": bounds}
        return Solution(strain, stress, stress.mean((2, 3, 4)), **known).to(dtype)

    def under(strain: torch.Tensor) -> Solution:
        of_strain = functools.partial(answer, problem.under(strain))
        return join(fast.cores.map_on_cores(of_strain, range(0, len(problem), together), workers), len(problem))

    def mean_stress(strain: torch.Tensor) -> torch.Tensor:
        return under(strain).effective_stress

    def columns(components: torch.Tensor) -> torch.Tensor:
        strains = torch.eye(6, dtype=torch.float64)[components]
        return torch.stack([mean_stress(strain.expand(len(problem), 6)) for strain in strains], -1)

    was_training = model.training
    model.eval().to(device)
    try:
        strain = problem.macroscopic_strain
        if macroscopic_stress is not None:
            strain = strain_of_mixed_load(
                *split_load(macroscopic_strain, macroscopic_stress, len(problem)), columns, mean_stress
            )
        solution = under(strain)
    finally:
        model.train(was_training).to(home)
    if rtol is not None:
        warn_of_failures(solution, stopping)
    elif energy_rtol is not None and not bool(solution.converged.all()):
        failed = torch.nonzero(~solution.converged).flatten().tolist()
        warnings.warn(
            f"The bounds of {len(failed)} of {len(problem)} cells, the first of them cell {failed[0]}, are not within "
            f"energy_rtol={energy_rtol:g} after {max_iterations} iterations: raise max_iterations.",
            RuntimeWarning,
            stacklevel=2,
        )
    return solution


def _edge_of_cubes(spacing) -> float:
    """The edge of voxels that are cubes. Raises ValueError for others."""
    if max(spacing) > (1 + 1e-6) * min(spacing):
        raise ValueError(
            f"spacing must have three equal edges, since the network was trained on cubes; it is {spacing}: resample "
            f"the cell to cubes, or call rlnlib.solve_strain."
        )
    return max(spacing)


def _superposed(model, cells: CellProblem, guaranteed: bool, network_dtype) -> list[torch.Tensor]:
    """Sums over the components of the macroscopic strain: of each guaranteed pass, or of the prediction alone.

    Shape: -> (B, 3, N...) float64 each.
    """
    labels, strain = cells.labels, cells.macroscopic_strain
    moduli = torch.tensor(cells.phases, dtype=torch.float64, device=labels.device)
    shape = (len(labels), 3, *labels.shape[1:])
    sums = [labels.new_zeros(shape, dtype=torch.float64) for _ in range(model.passes if guaranteed else 1)]
    for component, (trained, (a, b)) in enumerate(_TRAINED):
        loaded = torch.nonzero(strain[:, component]).flatten()
        if not len(loaded):
            continue
        young, poisson = moduli[labels[loaded].transpose(1 + a, 1 + b).contiguous()].unbind(-1)
        load = torch.eye(6, dtype=torch.float64, device=labels.device)[trained].expand(len(loaded), 6)
        turned = Cells(young, poisson, load, torch.float64 if guaranteed else torch.float32)
        found = model.guaranteed(turned, dtype=network_dtype) if guaranteed else [model(turned, network_dtype)]
        found[-1] = found[-1] * turned.best_factor(found[-1]).view(-1, 1, 1, 1, 1)
        order = [b if i == a else a if i == b else i for i in range(3)]
        for total, u in zip(sums, found, strict=True):
            part = u.double().transpose(2 + a, 2 + b)[:, order] * strain[loaded, component].view(-1, 1, 1, 1, 1)
            total[loaded] += part
    return sums
