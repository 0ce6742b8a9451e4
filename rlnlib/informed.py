"""u_i = u_{i-1} + f_i(strain, stress, stiffness, K_0^-1 r): one network for every contrast, load, phase and size.

The loop is that of Fig. 2a; what a pass is told and what it answers differ from :mod:`rlnlib.rln`. The state is the
periodic part u of the nodal displacement, so that the strain is compatible and has the right mean by construction.
A pass is told the whole strain and stress, the stiffness, and the residual r = f - K u of the equation, preconditioned
by the Green operator. It answers with an increment of u. The energy of the strain is the loss: no solution is needed.

Related work: recurrent inference machines (the paper's ref. [33]) feed the gradient of an objective to each pass; deep
Ritz methods train on the energy.
"""

from __future__ import annotations

import functools
import math
import warnings

import torch
from torch import nn

from rlnlib import _checks, certificate, discretizations, elasticity, fast, green, networks, solvers
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.problem import CellProblem, cell_problem
from rlnlib.solvers import Solution, StoppingRule
from rlnlib.voxel_fe import VoxelProblem

#: Poisson's ratio of the reference medium whose Green operator each pass sees, whatever the phases are.
REFERENCE_POISSON = 0.3
#: Channels of :meth:`Cells.features`: strain, stress, Young's modulus, preconditioned residual.
FEATURES = 6 + 6 + 1 + 3


class Cells:
    """Cells of isotropic voxels under a macroscopic strain, without their units.

    Moduli are divided by the smallest one of the cell, and the macroscopic strain e by its norm. So a network that
    sees nothing else answers in proportion to the strain and alike for proportional moduli.

    Args:
        young, poisson: moduli of the voxels, (B, N1, N2, N3).
        macroscopic_strain: (B, 6), Mandel.
        dtype: of the fields; torch.float32 is what networks take.
    """

    def __init__(self, young, poisson, macroscopic_strain, dtype: torch.dtype = torch.float32):
        young, poisson = young.double(), poisson.double()
        strain = macroscopic_strain.to(young)
        size = strain.norm(dim=1, keepdim=True)
        self.strain_norm = size.to(dtype)  # (B, 1)
        self.macroscopic_strain = (strain / torch.where(size > 0, size, 1)).to(dtype)
        young = young / young.amin((1, 2, 3), keepdim=True)
        shear = young / (2 * (1 + poisson))
        lame = torch.stack([2 * shear * poisson / (1 - 2 * poisson), shear], 1)  # (B, 2, N1, N2, N3)
        operator = green.kept_operator(
            tuple(young.shape[1:]), "bbar", 1.0, REFERENCE_POISSON, dtype=dtype, device=young.device
        )
        gradient = discretizations.BBar.element_gradient()
        self._mean_gradient = gradient.mean(0).flatten(1).to(young.device, dtype)  # (6, 24)
        uniform = self.macroscopic_strain.view(-1, 6, 1, 1, 1).expand(-1, -1, *young.shape[1:])
        # What exceeds the smallest moduli alone makes a force, so that the force in a homogeneous cell is exactly 0.
        excess = (lame - lame.amin((2, 3, 4), keepdim=True)).to(dtype)
        force = -self.forces(elasticity.hooke(uniform, *excess.split(1, 1)))
        self.problem = _ProblemOfFields(lame.to(dtype).contiguous(), force, operator)
        self._uniform_energy = (self.stress(uniform) * uniform).double().sum(1).mean((1, 2, 3)) / 2  # (B,)
        logarithm = young.log()[:, None]
        mean = logarithm.mean((2, 3, 4), keepdim=True)
        self._stiffness = ((logarithm - mean) / 2).to(dtype)  # (B, 1, N1, N2, N3)
        self._mean_young = mean.exp().to(dtype)  # geometric, (B, 1, 1, 1, 1)

    def forces(self, stress: torch.Tensor) -> torch.Tensor:
        """B^T sigma: nodal forces of a stress that is uniform in each voxel. Shape: (B, 6, N...) -> (B, 3, N...)."""
        corners = torch.einsum("nc,bnxyz->bcxyz", self._mean_gradient, stress)
        return discretizations.to_corners(corners, stress.new_ones(1, 1, 1, 1, 1))

    def strain(self, u: torch.Tensor) -> torch.Tensor:
        """Unit macroscopic strain plus B u, the voxel means; differentiable. Shape: (B, 3, N...) -> (B, 6, N...)."""
        return _MeanStrain.apply(u, self)

    def stress(self, strain: torch.Tensor) -> torch.Tensor:
        """sigma = C epsilon. Shape: (B, 6, N...) -> (B, 6, N...)."""
        return elasticity.hooke(strain, *self.problem.moduli.split(1, 1))

    def residual(self, u: torch.Tensor) -> torch.Tensor:
        """r = f - K u. Shape: (B, 3, N...) -> (B, 3, N...)."""
        return self.problem.rhs - self.problem.apply(u.contiguous())

    def energy(self, u: torch.Tensor) -> torch.Tensor:
        """W(u) = 1/2 <strain : C : strain>, per volume; its gradient is K u - f over the number of voxels.

        Shape: (B, 3, N...) -> (B,) float64.
        """
        return _Energy.apply(u, self)

    def best_factor(self, u: torch.Tensor) -> torch.Tensor:
        """t with the least energy W(t u), at most W(0). Shape: (B, 3, N...) -> (B,)."""
        image = solvers.inner(u, self.problem.apply(u.contiguous()))
        return torch.where(image > 0, solvers.inner(u, self.problem.rhs) / torch.where(image > 0, image, 1), 0)

    def features(self, u: torch.Tensor) -> torch.Tensor:
        """What a pass is told: strain, stress over its mean, log(E / mean E) / 2, K_0^-1 r / mean E.

        Poisson's ratios show in the stress and the strain. No gradient flows through the residual.

        Shape: (B, 3, N...) -> (B, FEATURES, N...).
        """
        strain = self.strain(u)
        stress = self.stress(strain)
        mean = stress.norm(dim=1, keepdim=True).mean((2, 3, 4), keepdim=True)
        stress = stress / mean.clamp(min=torch.finfo(mean.dtype).tiny)
        with torch.no_grad():
            z = self.problem.precondition(self.residual(u)) / self._mean_young
        return torch.cat([_squashed(strain), _squashed(stress), self._stiffness, z], 1)


class _ProblemOfFields(VoxelProblem):
    """K u = f for moduli that are fields instead of phases: Lame's lambda and mu, (B, 2, N1, N2, N3)."""

    def __init__(self, lame: torch.Tensor, force: torch.Tensor, operator: green.GreenOperator):
        self.operator, self.moduli, self.rhs = operator, lame, force
        self.units = [(1.0, 0.0), (0.0, 1.0)]
        self.stiffness = operator.discretization.stiffness(self.units)


def _squashed(field: torch.Tensor) -> torch.Tensor:
    """x / sqrt(1 + x^2 / 9): nearly x for what is usual, at most 3 for the peaks."""
    return field * (1 + field.square() / 9).rsqrt()


class _MeanStrain(torch.autograd.Function):
    """The voxel means of the strain; the adjoint is B^T."""

    @staticmethod
    def forward(context, u, cells):
        context.cells = cells
        return cells.problem.strain(u.contiguous(), cells.macroscopic_strain)

    @staticmethod
    def backward(context, gradient):
        return context.cells.forces(gradient), None


class _Energy(torch.autograd.Function):
    """The energy of each cell; K is its own adjoint, so one application of K gives value and gradient."""

    @staticmethod
    def forward(context, u, cells):
        image, rhs, voxels = cells.problem.apply(u.contiguous()), cells.problem.rhs, u[0, 0].numel()
        context.save_for_backward((image - rhs) / voxels)
        return cells._uniform_energy + solvers.inner(u.double(), image.double() / 2 - rhs.double()) / voxels

    @staticmethod
    def backward(context, gradient):
        (of_energy,) = context.saved_tensors
        return gradient.view(-1, 1, 1, 1, 1).to(of_energy) * of_energy, None


class InformedRLN(nn.Module):
    """A recurrent localization network that is told the equation: see the module.

    ``proximal`` is a name of :data:`rlnlib.networks.PROXIMALS`; with ``tied`` all passes share one network. The last
    convolution of each starts at zero: the untrained network answers with the macroscopic strain.

    Symmetries: exactly proportional to the macroscopic strain and indifferent to a factor on all moduli; commutes with
    shifts by an even number of voxels on even axes. All else is only learned.

    Shape: :class:`Cells` -> u (B, 3, N1, N2, N3), the periodic displacement for the macroscopic strain over its norm,
    of zero mean, in voxel edges; with ``return_iterates`` a list of one such field for each pass.
    """

    def __init__(self, passes: int = 5, tied: bool = False, proximal: str = "vnet-periodic"):
        super().__init__()
        self.passes = _checks.positive_integer("passes", passes, most=1000)
        _checks.one_of("proximal", proximal, networks.PROXIMALS)
        tied = _checks.boolean("tied", tied)
        self.config: dict = {"passes": self.passes, "tied": tied, "proximal": proximal}
        self.proximals = nn.ModuleList(
            networks.make_proximal(proximal, FEATURES, 3) for _ in range(1 if tied else self.passes)
        )
        for network in self.proximals:
            last = [layer for layer in network.modules() if isinstance(layer, nn.Conv3d)][-1]
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.float()  # whatever torch's default is

    def direction(self, number: int, cells: Cells, u: torch.Tensor, dtype=torch.float32) -> torch.Tensor:
        """The increment of u that pass ``number`` proposes. Shape: (B, 3, N...) -> (B, 3, N...)."""
        features = cells.features(u).float()
        with torch.autocast(u.device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            increment = self.proximals[number % len(self.proximals)](features)
        increment = increment.to(u)
        return increment - increment.mean((2, 3, 4), keepdim=True)

    def forward(self, cells: Cells, dtype=torch.float32, return_iterates: bool = False):
        fs = [
            lambda past, number=i: past[0] + self.direction(number, cells, past[0], dtype) for i in range(self.passes)
        ]
        iterates = list(solvers.recurrence(fs, torch.zeros_like(cells.problem.rhs)))
        return iterates if return_iterates else iterates[-1]

    @torch.no_grad()
    def guaranteed(self, cells: Cells, passes: int | None = None, dtype=torch.float32) -> list[torch.Tensor]:
        """The iterates of passes whose energy is at most that of as many iterations of conjugate gradients, whatever
        the weights are: see :func:`rlnlib.certificate.guarded_steps`.

        Each takes two applications of K where a pass of :meth:`forward` takes one. Those after the last pass of the
        network propose nothing. Shape: cells in float64 -> (B, 3, N1, N2, N3) for each pass.
        """
        proposals: list = [
            functools.partial(self.direction, number, cells, dtype=dtype) if number < self.passes else None
            for number in range(passes or self.passes)
        ]
        return list(certificate.guarded_steps(cells.problem, torch.zeros_like(cells.problem.rhs), proposals))


def energy_loss(iterates: list[torch.Tensor], cells: Cells) -> torch.Tensor:
    """Mean over cells and passes of log W(u_i).

    W(u) / W* - 1 is the relative error of the effective stiffness along the load (W* the least energy), so the
    logarithm makes cells of all stiffnesses count alike.
    """
    return torch.stack([cells.energy(u).log().mean() for u in iterates]).mean()


#: The load that a network was trained on, (axial, shear) = (11, 12), and the two axes whose exchange leads to it, for
#: each Mandel component 11, 22, 33, 23, 13, 12.
_TRAINED = ((0, (0, 0)), (0, (0, 1)), (0, (0, 2)), (5, (0, 2)), (5, (1, 2)), (5, (0, 0)))
#: Voxels predicted together, at most: as for :func:`rlnlib.predict_strain`.
_BATCH_VOXELS = {"cpu": 3 * 2**15, "cuda": 2**20}


def predict(
    model: InformedRLN,
    stiff,
    contrast: float | None = None,
    poisson: float = 0.3,
    macroscopic_strain=(1, 0, 0, 0, 0, 0),
    phases: list[tuple[float, float]] | None = None,
    rtol: float | None = None,
    energy_rtol: float | None = None,
    max_iterations: int = 2000,
    guaranteed: bool = False,
    network_dtype: torch.dtype = torch.float32,
    dtype: torch.dtype = torch.float64,
    device=None,
) -> Solution:
    """Predict strain and stress of periodic cells, and bound the effective stiffness along the macroscopic strain.

    The network predicts one field for each component of the macroscopic strain that is not zero, turned to the axial
    or the shear load that it was trained on by an exchange of axes; the fields add up, as the equation is linear. Each
    is scaled to its least energy: so one far off the mark, as at a contrast beyond the training's, does little harm.

    Args:
        model: the network; it is used in evaluation mode and left as it was.
        stiff, contrast, poisson, macroscopic_strain, phases: as for :func:`rlnlib.solve_strain`.
        rtol: go on from the prediction by conjugate gradients until ``||f - K u|| <= rtol ||f||``.
        energy_rtol: go on until the bounds are as close as that, relative to the upper one. One of the two at most.
        max_iterations: of conjugate gradients.
        guaranteed: take the passes of :meth:`InformedRLN.guaranteed`.
        network_dtype: torch.bfloat16 runs the convolutions in reduced precision.
        dtype: of the answer's fields. All but the network is computed in float64.
        device: where to compute; by default where the model is.

    Returns:
        A :class:`~rlnlib.solvers.Solution` with ``displacement`` and ``energy_bounds``. ``iterations`` counts those
        of conjugate gradients. Without a tolerance, ``converged`` is True only for a cell whose residual is 0.

    Raises:
        ValueError: for whatever :func:`rlnlib.solve_strain` refuses, or an odd axis that is too short for the network.
    """
    if not isinstance(model, InformedRLN):
        raise ValueError(
            f"model must be the network of load_pretrained('informed') or another InformedRLN, not a "
            f"{type(model).__name__}; rlnlib.predict_strain serves the networks of the paper."
        )
    problem = cell_problem(stiff, contrast, poisson, macroscopic_strain, phases)
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
    reference = green.kept_operator(problem.shape, "bbar", *certificate.softest_medium(problem.phases), device=device)
    together, workers = fast.cores.chunking(math.prod(problem.shape), device, _BATCH_VOXELS)
    together = min(together, math.ceil(len(problem) / workers))  # few cells keep all workers busy, too

    @torch.no_grad()  # here, since it holds for one thread
    def answer(first: int) -> Solution:
        cells = problem.part(slice(first, first + together), device)
        u = _superposed(model, cells, guaranteed, network_dtype)
        equilibrium = VoxelProblem(cells, reference)
        if rtol is not None:
            u, statistics = conjugate_gradient(equilibrium, stopping, start=u)
        else:
            u, statistics = certificate.solve_within_bounds(
                equilibrium, u, cells.macroscopic_strain, energy_rtol, max_iterations
            )
        strain = equilibrium.strain(u, cells.macroscopic_strain)
        stress = elasticity.hooke(strain, *cells.lame())
        bounds = certificate.energy_bounds(equilibrium, u, cells.macroscopic_strain, reference)
        known = {**vars(statistics), "displacement": u, "energy_bounds": bounds}
        return Solution(strain, stress, stress.mean((2, 3, 4)), **known).to(dtype)

    was_training = model.training
    model.eval().to(device)
    try:
        parts = fast.cores.map_on_cores(answer, range(0, len(problem), together), workers)
        solution = solvers.concatenate(list(parts))
    finally:
        model.train(was_training).to(home)
    if rtol is not None:
        solvers.warn_of_failures(solution, stopping)
    elif energy_rtol is not None and not bool(solution.converged.all()):
        failed = torch.nonzero(~solution.converged).flatten().tolist()
        warnings.warn(
            f"The bounds of {len(failed)} of {len(problem)} cells, the first of them cell {failed[0]}, are not within "
            f"energy_rtol={energy_rtol:g} after {max_iterations} iterations: raise max_iterations.",
            RuntimeWarning,
            stacklevel=2,
        )
    return solution


def _superposed(model, cells: CellProblem, guaranteed: bool, network_dtype) -> torch.Tensor:
    """Sum over the components of the macroscopic strain. Shape: -> (B, 3, N...) float64."""
    labels, strain = cells.labels, cells.macroscopic_strain
    moduli = torch.tensor(cells.phases, dtype=torch.float64, device=labels.device)
    total = labels.new_zeros((len(labels), 3, *labels.shape[1:]), dtype=torch.float64)
    for component, (trained, (a, b)) in enumerate(_TRAINED):
        loaded = torch.nonzero(strain[:, component]).flatten()
        if not len(loaded):
            continue
        young, poisson = moduli[labels[loaded].transpose(1 + a, 1 + b).contiguous()].unbind(-1)
        unit = torch.eye(6, dtype=torch.float64, device=labels.device)[trained].expand(len(loaded), 6)
        turned = Cells(young, poisson, unit, torch.float64 if guaranteed else torch.float32)
        u = model.guaranteed(turned, dtype=network_dtype)[-1] if guaranteed else model(turned, network_dtype)
        u = u * turned.best_factor(u).view(-1, 1, 1, 1, 1)
        order = [b if i == a else a if i == b else i for i in range(3)]
        part = u.double().transpose(2 + a, 2 + b)[:, order] * strain[loaded, component].view(-1, 1, 1, 1, 1)
        total[loaded] += part
    return total - total.mean((2, 3, 4), keepdim=True)
