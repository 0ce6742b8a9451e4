"""min_theta sum_i w_i L_i: calibration of a recurrent localization network (section 3.2).

:func:`train` is the whole of it; :func:`rlnlib.runs.train` is the same loop with a clock and its run kept in a folder.
What is random depends on (seed, epoch, batch) alone, so a run that was killed and resumed on the same device ends with
the same weights, bit for bit, as an undisturbed one.

Started by ``torchrun``, each process takes its share of every batch and all of them one step together: two processes
make the step of one with a batch twice as large.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from rlnlib import _checks, symmetry
from rlnlib.fast.processes import fast_precision as fast_precision
from rlnlib.fast.processes import mean_over_processes, start
from rlnlib.inference import predict_strain
from rlnlib.metrics import mase
from rlnlib.rln import RLN, phase_indicators

LOSSES = ("mse", "rmse", "mae")


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe; the defaults are the paper's (section 4), with the released code's clipping.

    The gradient's norm is clipped at 2 x passes.

    Args:
        epochs: presentations of the whole training set, over which the learning rate falls along a cosine.
        batch_size: cells of a step, of one process.
        learning_rate: the largest.
        final_learning_rate: that of the cosine's end.
        warm_up: first part of the run, over which the learning rate rises linearly.
        loss: "mse" is the text's, the sum over the passes of w_i times the mean square error; "rmse" the released
            code's, the mean over the passes of w_i 100 sqrt(mean square error) / mean strain; "mae" the same of the
            mean absolute error, which is what MASE measures.
        pass_weights: the w_i, a sequence with one for each pass; 1 by default.
        augment: shift cells, mirror them and exchange the transverse axes, all exact for a load along axis 0.
        precision: "32-true", or "bf16-mixed" for convolutions in bfloat16; see :func:`fast_precision`.
        max_minutes: the run ends with the time, if that comes before ``epochs``.
        checkpoint_minutes: at most so much is lost to a kill.
        seed: of the order of the cells and of their moves.
    """

    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-8
    warm_up: float = 0.0
    loss: str = "mse"
    pass_weights: tuple[float, ...] | None = None
    augment: bool = False
    precision: str = "32-true"
    max_minutes: float | None = None
    checkpoint_minutes: float = 2.0
    seed: int = 0

    def __post_init__(self):
        clean: dict[str, Any] = {}
        for name in ("epochs", "batch_size"):
            clean[name] = _checks.positive_integer(name, getattr(self, name))
        for name in ("learning_rate", "final_learning_rate", "checkpoint_minutes"):
            clean[name] = _checks.positive(name, getattr(self, name))
        clean["warm_up"] = _checks.within("warm_up", self.warm_up, 0, 0.999)
        clean["loss"] = _checks.one_of("loss", self.loss, LOSSES)
        clean["precision"] = _checks.one_of("precision", self.precision, ("32-true", "bf16-mixed"))
        clean["augment"] = _checks.boolean("augment", self.augment)
        clean["seed"] = _checks.positive_integer("seed", self.seed, least=0)
        if self.max_minutes is not None:
            clean["max_minutes"] = _checks.positive("max_minutes", self.max_minutes)
        if self.pass_weights is not None:
            if _checks.length(self.pass_weights) < 0:
                raise ValueError(f"pass_weights must be a sequence, one number a pass; it is {self.pass_weights!r}.")
            weights = tuple(_checks.within("an entry of pass_weights", w, 0, 1e9) for w in self.pass_weights)
            if not any(weights):
                raise ValueError("pass_weights must have an entry above 0: else nothing is learned.")
            clean["pass_weights"] = weights
        for name, value in clean.items():
            object.__setattr__(self, name, value)


def pass_errors(iterates: list[torch.Tensor], target: torch.Tensor, kind: str) -> torch.Tensor:
    """Mean square error of each pass, mean absolute error for ``kind="mae"``.

    Shape: N fields (B, 1, N1, N2, N3), one such field -> (N,).
    """
    differences = [iterate - target for iterate in iterates]
    return torch.stack([(d.abs() if kind == "mae" else d.square()).mean() for d in differences])  # (N,)


def training_loss(errors: torch.Tensor, mean_strain, kind: str, weights=None) -> torch.Tensor:
    """The calibration loss sum_i w_i L_i over all passes, w_i = 1 by default; see :class:`TrainingConfig`.

    Shape: errors (N,) of :func:`pass_errors`, weights (N,) -> ().
    """
    weights = torch.ones_like(errors) if weights is None else torch.as_tensor(weights).to(errors)
    if kind == "mse":
        return (weights * errors).sum()
    return 100 * (weights * (errors.sqrt() if kind == "rmse" else errors)).mean() / mean_strain


def gradient(model, fabric, indicators: torch.Tensor, target: torch.Tensor, config) -> torch.Tensor:
    """Add the gradient of the calibration loss of a batch to the gradients of the model's weights.

    Args:
        model: a recurrent localization network, as ``fabric.setup`` returned it.
        indicators: (B, 2, N, N, N), of the phases.
        target: (B, 1, N, N, N), strain_xx / macroscopic strain.
        config: a :class:`TrainingConfig`, of which ``loss`` and ``pass_weights`` are read.

    Returns:
        The loss, ().
    """
    iterates = model(indicators, return_iterates=True)  # eq. 22: N fields (B, 1, N, N, N)
    # Over the batches of all processes, since the root of a mean is not the mean of roots.
    errors = mean_over_processes(fabric, pass_errors(iterates, target, config.loss))  # L_i, (N,)
    loss = training_loss(errors, mean_over_processes(fabric, target.mean()), config.loss, config.pass_weights)
    fabric.backward(loss)
    return loss.detach()


def step(model, optimizer, fabric, cells: torch.Tensor, strain: torch.Tensor, config: TrainingConfig) -> torch.Tensor:
    """Take one step of Adam down the gradient of the loss (section 3.2) on a batch of cells.

    Args:
        model: a recurrent localization network, with its ``optimizer``, as ``fabric.setup`` returned them.
        cells: (B, N, N, N), 1 where stiff.
        strain: (B, N, N, N), strain_xx / macroscopic strain.

    Returns:
        The loss, ().
    """
    optimizer.zero_grad()
    loss = gradient(model, fabric, phase_indicators(cells), strain[:, None], config)
    fabric.clip_gradients(model, optimizer, max_norm=2.0 * model.passes, error_if_nonfinite=False)
    optimizer.step()
    return loss


#: Of a run: epochs done, batches of the present one, the loss and the cells summed over them, time, the best epoch.
_BEGINNING: dict[str, Any] = dict(
    epoch=0, batch=0, loss_sum=0.0, seen=0, seconds=0.0, out_of_time=False, best_error=math.inf, best={}
)


@dataclass
class Run:
    """A training under way.

    Attributes:
        network: what is trained; ``model`` and ``optimizer`` are what ``fabric`` made of it and of its optimizer.
        train_set, validation_set: stiff and strain_xx, (n, N, N, N) each, on the CPU.
        batches: of an epoch.
        state: where it stands, which with the weights and the optimizer's state is all that it takes to go on.
    """

    network: RLN
    model: Any
    optimizer: Any
    fabric: Any
    config: TrainingConfig
    train_set: tuple[torch.Tensor, torch.Tensor]
    validation_set: tuple[torch.Tensor, torch.Tensor]
    batches: int
    state: dict[str, Any] = field(default_factory=lambda: {**_BEGINNING, "learning_curve": []})

    @property
    def number(self) -> int:
        """Batches taken since the beginning."""
        return self.state["epoch"] * self.batches + self.state["batch"]

    @property
    def total(self) -> int:
        """Batches of all epochs."""
        return self.config.epochs * self.batches

    def check_finite(self) -> None:
        """Raise FloatingPointError if the loss or a weight is no longer finite."""
        sums = [self.state["loss_sum"], *self.network.parameters()]
        if not all(bool(torch.as_tensor(value).isfinite().all()) for value in sums):
            raise FloatingPointError(
                f"The loss or a weight is no longer finite in epoch {self.state['epoch'] + 1}: lower the learning "
                f"rate, or set warm_up. A checkpoint, if there is one, is from before."
            )


class Keeper:
    """What the loop tells of itself, and asks. This one keeps nothing, and counts batches; others may keep the run."""

    def begin(self, run: Run) -> None:
        """Before the first batch: ``run`` may be taken to where it stood before."""
        if run.config.max_minutes is not None:
            raise ValueError("max_minutes needs a clock: call rlnlib.runs.train, which has one.")

    def done(self, run: Run) -> float:
        """Before each batch: the part of the run that is done, on which the learning rate depends; 1 ends it."""
        return run.number / run.total

    def after_batch(self, run: Run) -> None:
        """After each batch."""

    def after_epoch(self, run: Run) -> None:
        """After each epoch."""


def train(
    model: RLN, train_set, validation_set, config: TrainingConfig, keeper: Keeper | None = None, device="auto"
) -> list[dict]:
    """Calibrate ``model`` in place; it ends with the weights of the epoch of lowest validation error.

    Args:
        model: an :class:`RLN`, with any proximal network.
        train_set: a pair of tensors, stiff (n, N, N, N) and strain_xx over the macroscopic strain (n, N, N, N), of mean
            1, or what has a method ``tensors`` that gives such a pair; held on the device.
        validation_set: the same.
        config: the recipe.
        keeper: told of each batch and epoch; by default nothing of the run is kept but its end.
        device: "auto", "cpu" or "cuda".

    Returns:
        The learning curve: one dict an epoch.

    Raises:
        ValueError: for bad sets or weights, or a recipe in minutes without a keeper that has a clock.
        FloatingPointError: if the loss or a weight is no longer finite.
    """
    if not isinstance(model, RLN):
        raise ValueError(f"model must be a rlnlib.RLN, whose proximal may be yours; it is a {type(model).__name__}.")
    if not isinstance(config, TrainingConfig):
        raise ValueError(f"config must be a rlnlib.training.TrainingConfig; it is {config!r}.")
    keeper = Keeper() if keeper is None else keeper
    if not isinstance(keeper, Keeper):
        raise ValueError(f"keeper must be a training.Keeper; it is {keeper!r}. rlnlib.runs.train takes a folder.")
    if config.pass_weights is not None and len(config.pass_weights) != model.passes:
        raise ValueError(f"pass_weights has {len(config.pass_weights)} entries; the model makes {model.passes} passes.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model has no parameter to train: proximal must make a network that has some.")
    train_set, validation_set = _as_pair("train_set", train_set), _as_pair("validation_set", validation_set)
    fabric = start(device, config.precision)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    network = model.to(fabric.device)
    step_size = config.batch_size * fabric.world_size
    model, optimizer = fabric.setup(network, optimizer)
    batches = math.ceil(len(train_set[0]) / step_size)
    run = Run(network, model, optimizer, fabric, config, train_set, validation_set, batches)
    keeper.begin(run)
    stiff, strain = fabric.to_device(train_set)
    state = run.state
    while state["epoch"] < config.epochs and not state["out_of_time"]:
        order = torch.randperm(len(stiff), generator=_generator(config.seed, state["epoch"]))
        order = torch.cat([order, order[: -len(order) % fabric.world_size]])  # an equal share for each process
        while state["batch"] < run.batches:
            done = keeper.done(run)
            if done >= 1:
                state["out_of_time"] = True
                break
            for group in optimizer.param_groups:
                group["lr"] = _rate(config, done)
            chosen = order[state["batch"] * step_size : (state["batch"] + 1) * step_size]
            # Drawn for the whole batch, so that they do not depend on the number of processes.
            moves = symmetry.draw_moves(len(chosen), _generator(config.seed, state["epoch"], state["batch"]))
            share = slice(fabric.global_rank, None, fabric.world_size)
            records, moves = fabric.to_device((chosen[share], moves[share]))
            cells, target = stiff[records], strain[records]
            if config.augment:
                cells, target = symmetry.moved_by(cells, moves), symmetry.moved_by(target, moves)
            loss = step(model, optimizer, fabric, cells, target, config)
            state["batch"] += 1
            state["loss_sum"] += (loss * len(chosen)).double()  # on the device: a GPU does not wait for the host
            state["seen"] += len(chosen)
            keeper.after_batch(run)
        if state["seen"] or not state["learning_curve"]:
            _finish_epoch(run)
        keeper.after_epoch(run)
    network.load_state_dict(state["best"])
    return state["learning_curve"]


def _finish_epoch(run: Run) -> None:
    """Measure the validation error, keep the weights if they are the best, and begin the next epoch."""
    run.check_finite()  # before the evaluation, which refuses NaN
    fabric, state = run.fabric, run.state
    share = slice(fabric.global_rank, None, fabric.world_size)
    dtype = torch.bfloat16 if run.config.precision == "bf16-mixed" else torch.float32
    stiff, strain = run.validation_set
    sum_of_errors = mase(predict_strain(run.network, stiff[share], dtype=dtype), strain[share]).sum()
    total = torch.as_tensor(fabric.all_reduce(sum_of_errors.to(fabric.device), reduce_op="sum"))
    error = float(total) / len(stiff)
    state["learning_curve"].append(
        {
            "epoch": state["epoch"] + 1,
            "training_loss": float(state["loss_sum"]) / state["seen"] if state["seen"] else math.nan,
            "validation_mase": error,
            "learning_rate": run.optimizer.param_groups[0]["lr"],
            "seconds": round(state["seconds"], 1),
        }
    )
    if error < state["best_error"]:
        state["best_error"] = error
        state["best"] = {name: value.detach().cpu().clone() for name, value in run.network.state_dict().items()}
    state.update(epoch=state["epoch"] + 1, batch=0, loss_sum=0.0, seen=0)


def _rate(config: TrainingConfig, done: float) -> float:
    """Linear rise over the warm-up, then cosine decay to the final learning rate, over 0 <= done <= 1."""
    if done < config.warm_up:
        return config.learning_rate * done / config.warm_up
    fall = (1 + math.cos(math.pi * (done - config.warm_up) / (1 - config.warm_up))) / 2
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * fall


def _generator(*key: int) -> torch.Generator:
    """Make a generator that depends on these numbers alone."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return torch.Generator().manual_seed(seed)


def _as_pair(name: str, data) -> tuple[torch.Tensor, torch.Tensor]:
    """Check a data set. Shape: -> stiff and strain_xx (n, N, N, N), on the CPU. Raises ValueError."""
    if isinstance(data, (str, bytes)) or not (hasattr(data, "tensors") or _checks.length(data) == 2):
        raise ValueError(f"{name} must be a rlnlib.dataset.StrainDataset or a pair (stiff, strain_xx); it is {data!r}.")
    stiff, strain = data.tensors() if hasattr(data, "tensors") else data
    stiff, strain = _checks.as_tensor(stiff, name), _checks.as_tensor(strain, name)
    if stiff.ndim != 4 or stiff.shape != strain.shape or len(stiff) == 0:
        raise ValueError(
            f"{name} must be non-empty stiff and strain_xx of one shape (n, N, N, N); they have "
            f"{tuple(stiff.shape)} and {tuple(strain.shape)}."
        )
    if not bool(torch.isfinite(strain).all()):
        raise ValueError(f"{name} contains NaN or infinity in its strains: solve or repair the data set again.")
    return stiff.cpu(), strain.float().cpu()
