"""u_i = u_{i-1} + f_i(strain, stress, log E, K_0^-1 r): one network for every contrast, load, phase and size.

The loop is that of Fig. 2a; what a pass is told and what it answers differ from :mod:`rlnlib.rln`. The state is the
periodic part u of the nodal displacement, so that the strain is compatible and has the right mean by construction.
A pass is told the whole strain and stress, Young's modulus, and the residual r = f - K u of the equation,
preconditioned by the Green operator. It answers with an increment of u. The energy of the strain is the loss: no
solution is needed.

Related work: recurrent inference machines (the paper's ref. [33]) feed the gradient of an objective to each pass; deep
Ritz methods train on the energy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from rlnlib import _checks, discretizations, elasticity, green, networks, proximals, solvers
from rlnlib.informed import certificate
from rlnlib.method import kept_operator
from rlnlib.voxel_fe import VoxelProblem

#: Poisson's ratio of the reference medium whose Green operator each pass sees, whatever the phases are.
REFERENCE_POISSON = 0.3
#: What a pass may be told of the preconditioned residual, and what it may answer with: see :class:`InformedRLN`.
RESIDUALS, ANSWERS = ("absolute", "relative", "none"), ("displacement", "polarization")


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
        operator = kept_operator(
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
        self._log_young = ((logarithm - mean) / 2).to(dtype)  # (B, 1, N1, N2, N3)
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
        return solvers.ratio(solvers.inner(u, self.problem.rhs), image)

    def features(self, u: torch.Tensor) -> torch.Tensor:
        """What a pass is told of the field: strain, stress over its mean, log(E / mean E) / 2.

        Poisson's ratios show in the stress and the strain. Shape: (B, 3, N...) -> (B, 13, N...).
        """
        strain = self.strain(u)
        stress = self.stress(strain)
        mean = stress.norm(dim=1, keepdim=True).mean((2, 3, 4), keepdim=True)
        stress = stress / mean.clamp(min=torch.finfo(mean.dtype).tiny)
        return torch.cat([_squashed(strain), _squashed(stress), self._log_young], 1)

    @torch.no_grad()
    def correction(self, u: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """z = K_0^-1 r / mean E, what is still wrong, in waves of every length; no gradient flows through it.

        Shape: (B, 3, N...), and r = f - K u where it is known -> (B, 3, N...).
        """
        return self.problem.precondition(self.residual(u) if residual is None else residual) / self._mean_young

    def strain_of(self, u: torch.Tensor) -> torch.Tensor:
        """B u alone, the voxel means. Shape: (B, 3, N...) -> (B, 6, N...)."""
        return self.problem.strain(u.contiguous(), torch.zeros_like(self.macroscopic_strain))

    def of_polarization(self, stress: torch.Tensor) -> torch.Tensor:
        """-K_0^-1 B^T sigma: the answer of the reference medium, of modulus 1, to a polarization; differentiable.

        Shape: (B, 6, N...) -> (B, 3, N...).
        """
        return _OfPolarization.apply(stress, self)


class _ProblemOfFields(VoxelProblem):
    """K u = f for moduli that are fields instead of phases: Lame's lambda and mu, (B, 2, N1, N2, N3)."""

    def __init__(self, lame: torch.Tensor, force: torch.Tensor, operator: green.GreenOperator):
        self.operator, self.moduli, self.rhs = operator, lame, force
        self.basis = [(1.0, 0.0), (0.0, 1.0)]
        self.stiffness_operator = operator.discretization.stiffness_operator(self.basis)


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


class _OfPolarization(torch.autograd.Function):
    """K_0^-1 is its own adjoint, and that of B^T is B."""

    @staticmethod
    def forward(context, stress, cells):
        context.cells = cells
        return -cells.problem.precondition(cells.forces(stress))

    @staticmethod
    def backward(context, gradient):
        return -context.cells.strain_of(context.cells.problem.precondition(gradient.contiguous())), None


class _ResidualNorm(torch.autograd.Function):
    """r . K_0^-1 r of each cell; K is its own adjoint."""

    @staticmethod
    def forward(context, u, cells):
        residual, voxels = cells.residual(u), u[0, 0].numel()
        z = cells.problem.precondition(residual)
        context.save_for_backward(cells.problem.apply(z.contiguous()) * (-2 / voxels))
        return solvers.inner(residual.double(), z.double()) / voxels

    @staticmethod
    def backward(context, gradient):
        (of_norm,) = context.saved_tensors
        return gradient.view(-1, 1, 1, 1, 1).to(of_norm) * of_norm, None


def start_at_zero(network: nn.Module) -> None:
    """Let an untrained network answer with zeros: the last convolution is set to zero."""
    last = [layer for layer in network.modules() if isinstance(layer, nn.Conv3d)][-1]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)


class InformedRLN(nn.Module):
    """A recurrent localization network that is told the equation: see the module.

    The last convolution of each pass starts at zero: the untrained network answers with the macroscopic strain.

    Args:
        passes: proximal networks one after the other.
        tied: all passes share one network.
        proximal: a name of :data:`rlnlib.networks.PROXIMALS`.
        residual: "absolute": a pass is told z = K_0^-1 r. "relative": it is told z over the size s of the strain of z,
            and its answer is multiplied by s / sqrt(1 + s^2): a small residual is seen as well as a large one, and the
            solution is a field that every pass leaves alone, whatever the weights are. "none": it is not told.
        answer: "displacement": a pass answers with the increment of u. "polarization": with a stress, to which the
            reference medium answers; z is then told by its strain, so that all that a pass sees and says is local.
        largest_contrast: of the training; :func:`rlnlib.predict` warns beyond it. None where nothing says it.

    Symmetries: exactly proportional to the macroscopic strain and indifferent to a factor on all moduli; commutes with
    shifts by an even number of voxels on even axes. All else is only learned.

    Shape: :class:`Cells` -> u (B, 3, N1, N2, N3), the periodic displacement for the macroscopic strain over its norm,
    of zero mean, in voxel edges; with ``return_iterates`` a list of one such field for each pass.
    """

    def __init__(
        self,
        passes: int = 5,
        tied: bool = False,
        proximal: str = "vnet-periodic",
        residual: str = "absolute",
        answer: str = "displacement",
        largest_contrast: float | None = None,
    ):
        super().__init__()
        self.passes = _checks.positive_integer("passes", passes, most=1000)
        _checks.one_of("proximal", proximal, networks.PROXIMALS)
        tied = _checks.boolean("tied", tied)
        self.residual, self.answer = (
            _checks.one_of("residual", residual, RESIDUALS),
            _checks.one_of("answer", answer, ANSWERS),
        )
        self.config: dict = {"passes": self.passes, "tied": tied, "proximal": proximal}
        self.config |= {"residual": residual, "answer": answer}
        self.largest_contrast = math.inf
        if largest_contrast is not None:
            self.largest_contrast = _checks.positive("largest_contrast", largest_contrast)
            self.config["largest_contrast"] = self.largest_contrast
        outputs = 3 if answer == "displacement" else 6
        inputs = 6 + 6 + 1 + (0 if residual == "none" else outputs)
        self.proximals = nn.ModuleList(
            proximals.make_proximal(proximal, inputs, outputs) for _ in range(1 if tied else self.passes)
        )
        for network in self.proximals:
            start_at_zero(network)
        self.float()  # whatever torch's default is

    def direction(self, number: int, cells: Cells, u: torch.Tensor, dtype=torch.float32, residual=None) -> torch.Tensor:
        """The increment of u that pass ``number`` proposes. Shape: see :meth:`Cells.correction`."""
        told, size = [cells.features(u)], u.new_ones(())
        if self.residual != "none":
            z = cells.correction(u, residual)
            strain = cells.strain_of(z)
            if self.residual == "relative":
                size = strain.square().sum(1, keepdim=True).mean((2, 3, 4), keepdim=True).sqrt()
            seen = z if self.answer == "displacement" else strain
            told.append(seen / torch.where(size > 0, size, 1) if self.residual == "relative" else seen)
        with torch.autocast(u.device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            answer = self.proximals[number % len(self.proximals)](torch.cat(told, 1).float())
        increment = answer.to(u) * (size * (1 + size.square()).rsqrt() if self.residual == "relative" else size)
        if self.answer == "polarization":
            increment = cells.of_polarization(increment)
        return increment - increment.mean((2, 3, 4), keepdim=True)

    def forward(self, cells: Cells, dtype=torch.float32, return_iterates: bool = False):
        fs = [
            lambda past, number=i: past[0] + self.direction(number, cells, past[0], dtype) for i in range(self.passes)
        ]
        iterates = list(solvers.recurrence(fs, torch.zeros_like(cells.problem.rhs)))
        return iterates if return_iterates else iterates[-1]

    @torch.no_grad()
    def guaranteed(
        self, cells: Cells, passes: int | None = None, dtype=torch.float32, networks: Sequence[int] | None = None
    ) -> list[torch.Tensor]:
        """The iterates of passes whose energy is at most that of as many iterations of conjugate gradients, whatever
        the weights are: see :func:`rlnlib.informed.certificate.guarded_steps`.

        Each takes K twice, a pass of :meth:`forward` once. The third network proposes in the third pass and in every
        later one: here it does better than the later ones, wherever it was tried (``experiments/informed.py``).

        Args:
            cells: in float64.
            passes: how many; by default as many as the network has.
            dtype: torch.bfloat16 runs the convolutions in reduced precision.
            networks: numbers of the networks that propose, one for each pass; then ``passes`` is left out.

        Returns:
            u after each pass, (B, 3, N1, N2, N3).

        Raises:
            ValueError: for both ``passes`` and ``networks``.
        """
        if networks is None:
            networks = [min(number, 2, self.passes - 1) for number in range(passes or self.passes)]
        elif passes is not None:
            raise ValueError("networks names one network for each pass: leave passes out.")
        proposals = [
            lambda u, residual, number=number: self.direction(number, cells, u, dtype, residual) for number in networks
        ]
        return list(certificate.guarded_steps(cells.problem, torch.zeros_like(cells.problem.rhs), proposals))


def energy_loss(iterates: Sequence[torch.Tensor], cells: Cells, weights: Sequence[float] = ()) -> torch.Tensor:
    """Mean over cells, and weighted mean over passes, of log W(u_i).

    W(u) / W* - 1 is the relative error of the effective stiffness along the load (W* the least energy), so the
    logarithm makes stiff and soft cells count alike.
    """
    return _over_passes([cells.energy(u).log().mean() for u in iterates], weights)


def residual_loss(iterates: Sequence[torch.Tensor], cells: Cells, weights: Sequence[float] = ()) -> torch.Tensor:
    """Mean over cells, and weighted mean over passes, of log(r . K_0^-1 r) / 2: each halving counts alike.

    It needs no label either. Where the energy looks at the cells that are worst, this one looks at all.
    """
    tiny = torch.finfo(torch.float32).tiny
    return _over_passes([_ResidualNorm.apply(u, cells).clamp(min=tiny).log().mean() / 2 for u in iterates], weights)


def strain_loss(
    iterates: Sequence[torch.Tensor], cells: Cells, solution: torch.Tensor, weights: Sequence[float] = ()
) -> torch.Tensor:
    """Mean over cells, and weighted mean over passes, of the MASE of the loaded component, as a fraction (eq. 29).

    The loss with labels: ``solution`` is u of the solved cells, (B, 3, N...).
    """
    loaded = cells.macroscopic_strain.abs().argmax(1).view(-1, 1, 1, 1, 1).expand(-1, 1, *solution.shape[2:])
    true = cells.strain(solution).gather(1, loaded)
    return _over_passes([(cells.strain(u).gather(1, loaded) - true).abs().mean() for u in iterates], weights)


def _over_passes(losses: list[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    by_pass = torch.stack(losses)
    return by_pass.mean() if not weights else (by_pass * by_pass.new_tensor(weights)).sum() / sum(weights)
