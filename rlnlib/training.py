"""min_theta sum_i w_i L_i: calibration of a recurrent localization network (section 3.2), resumable at any moment.

What is random depends on (seed, epoch, batch) alone, so a run that was killed and resumed on the same device ends
with the same weights, bit for bit, as an undisturbed one.

Started by ``torchrun``, each process takes its share of every batch and all of them one step together: two processes
make the step of one with a batch twice as large. They share the folder.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from rlnlib import _checks, runs, symmetry
from rlnlib._files import locked, writing
from rlnlib.fast.processes import fast_precision, longest, mean_over_processes, start
from rlnlib.metrics import mase
from rlnlib.rln import RLN, phase_indicators, predict_strain

__all__ = ["LOSSES", "TrainingConfig", "fast_precision", "pass_errors", "read_run", "step", "train", "training_loss"]

LOSSES = ("mse", "rmse", "mae")
#: Where a new run stands: epochs done, batches of the present one, the loss and the cells summed over them, time.
_START: dict[str, Any] = {"epoch": 0, "batch": 0, "loss_sum": 0.0, "seen": 0, "seconds": 0.0, "out_of_time": False}


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
            code's, the mean over the passes of 100 sqrt(mean square error) / mean strain; "mae" the same of the mean
            absolute error, which is what MASE measures.
        pass_weights: the w_i, one for each pass; 1 by default.
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
        clean: dict[str, Any] = {
            name: _checks.positive_integer(name, getattr(self, name)) for name in ("epochs", "batch_size")
        }
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
            try:
                weights = list(self.pass_weights)
            except TypeError as error:
                raise ValueError(f"pass_weights must be one number a pass; it is {self.pass_weights!r}.") from error
            clean["pass_weights"] = tuple(_checks.positive("an entry of pass_weights", weight) for weight in weights)
        for name, value in clean.items():
            object.__setattr__(self, name, value)


def step(model, optimizer, fabric, cells: torch.Tensor, strain: torch.Tensor, config: TrainingConfig) -> torch.Tensor:
    """Take one step of Adam down the gradient of the loss (section 3.2) on a batch of cells.

    Args:
        model: a recurrent localization network, with its ``optimizer``, as ``fabric.setup`` returned them.
        cells: (B, N, N, N), 1 where stiff.
        strain: (B, N, N, N), strain_xx / macroscopic strain.

    Returns:
        The loss, ().
    """
    target = strain[:, None]  # (B, 1, N, N, N)
    iterates = model(phase_indicators(cells), return_iterates=True)  # eq. 22: N fields (B, 1, N, N, N)
    # Over the batches of all processes, since the root of a mean is not the mean of roots.
    errors = mean_over_processes(fabric, pass_errors(iterates, target, config.loss))  # L_i, (N,)
    loss = training_loss(errors, mean_over_processes(fabric, target.mean()), config.loss, config.pass_weights)
    optimizer.zero_grad()
    fabric.backward(loss)
    fabric.clip_gradients(model, optimizer, max_norm=2.0 * len(errors), error_if_nonfinite=False)
    optimizer.step()
    return loss.detach()


def train(
    model: RLN,
    train_set,
    validation_set,
    config: TrainingConfig,
    folder,
    device="auto",
    progress=False,
    slice_minutes: float | None = None,
) -> list[dict]:
    """Calibrate ``model`` in place; it ends with the weights of the epoch of lowest validation error.

    Args:
        model: an :class:`RLN`, with any proximal network.
        train_set: a pair of tensors, stiff (n, N, N, N) and strain_xx (n, N, N, N), or what has a method ``tensors``
            that gives such a pair; held on the device.
        validation_set: the same.
        config: the recipe.
        folder: receives a checkpoint after each epoch and every ``config.checkpoint_minutes``, and
            ``learning_curve.csv``. A folder with a checkpoint is resumed, and a finished one only read.
        device: "auto", "cpu" or "cuda".
        progress: show a bar.
        slice_minutes: time of this call, after which an unfinished run is saved and :class:`rlnlib.runs.Unfinished`
            raised; one step is made in any case. It is no part of the recipe: so a long run fits into short leases of a
            machine.

    Returns:
        The learning curve: one dict an epoch.

    Raises:
        ValueError: for bad sets or weights.
        OSError: if the folder belongs to another recipe, network or data, if another process works in it, if its
            checkpoint is damaged, or if it cannot be written.
        FloatingPointError: if the loss or a weight is no longer finite; the last good checkpoint is kept.
    """
    if not isinstance(model, RLN):
        raise ValueError(
            f"model must be a rlnlib.RLN, with a network of yours as its proximal; it is a {type(model).__name__}."
        )
    stiff, strain = _pair("train_set", train_set)
    held_out = _pair("validation_set", validation_set)
    if config.pass_weights is not None and len(config.pass_weights) != model.passes:
        raise ValueError(f"pass_weights has {len(config.pass_weights)} entries; the model makes {model.passes} passes.")
    if slice_minutes is not None and (not isinstance(slice_minutes, (int, float)) or math.isnan(slice_minutes)):
        raise ValueError(f"slice_minutes must be a number of minutes; it is {slice_minutes!r}.")
    folder = _checks.as_path(folder, "folder")
    run = {"config": asdict(config), "model": model.config}  # the folder is held to these, and to the data
    run["data"] = {
        "train": runs.describe_data(stiff, strain, train_set),
        "validation": runs.describe_data(*held_out, validation_set),
    }
    fabric = start(device, config.precision)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    network = model.to(fabric.device)
    model, optimizer = fabric.setup(network, optimizer)
    with contextlib.ExitStack() as stack:
        if fabric.is_global_zero:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        state: dict[str, Any] = {**_START, "learning_curve": [], "best_error": math.inf, "best": {}}
        if before := runs.read_matching_checkpoint(folder, run):
            network.load_state_dict(before["weights"])
            optimizer.load_state_dict(before["optimizer"])
            state = before["state"]
        if fabric.is_global_zero and state["learning_curve"]:  # a kill may have come between the two files
            runs.write_learning_curve(folder / runs.LEARNING_CURVE, state["learning_curve"])
        stiff, strain = fabric.to_device((stiff, strain))
        step_size = config.batch_size * fabric.world_size
        batches = math.ceil(len(stiff) / step_size)
        entered = saved = time.monotonic()
        started = entered - state["seconds"]
        loss_sum = torch.tensor(state["loss_sum"], dtype=torch.float64, device=fabric.device)

        def check_finite():
            state["loss_sum"] = float(loss_sum)
            finite = [math.isfinite(state["loss_sum"]), *(bool(p.isfinite().all()) for p in network.parameters())]
            if not all(finite):
                raise FloatingPointError(
                    f"The loss or a weight is no longer finite in epoch {state['epoch'] + 1}: lower the learning rate, "
                    f"or set warm_up. If there is a checkpoint in {folder}, it is from before."
                )

        def save():
            check_finite()
            if fabric.is_global_zero:
                tensors = {"weights": network.state_dict(), "optimizer": optimizer.state_dict()}
                runs.write_checkpoint(folder, {**run, "state": state, **tensors})
                if state["learning_curve"]:
                    runs.write_learning_curve(folder / runs.LEARNING_CURVE, state["learning_curve"])
            fabric.barrier()
            return time.monotonic()

        begin = state["epoch"] * batches + state["batch"]
        with tqdm(initial=begin, total=config.epochs * batches, unit="batch", disable=not progress) as bar:
            while state["epoch"] < config.epochs and not state["out_of_time"]:
                order = torch.randperm(len(stiff), generator=_generator(config.seed, state["epoch"]))
                order = torch.cat([order, order[: -len(order) % fabric.world_size]])  # an equal share for each process
                while state["batch"] < batches:
                    number = state["epoch"] * batches + state["batch"]
                    bar.update(number + 1 - bar.n)
                    state["seconds"] = longest(fabric, time.monotonic() - started)
                    done = number / (config.epochs * batches)
                    if config.max_minutes is not None and state["seconds"] > 60 * config.max_minutes * done:
                        done = state["seconds"] / (60 * config.max_minutes)
                        bar.total = max(number + 1, round(number / done))  # as many batches as the minutes allow
                    if done >= 1:
                        state["out_of_time"] = True
                        break
                    spent = state["seconds"] - (entered - started)
                    if slice_minutes is not None and number > begin and spent > 60 * slice_minutes:
                        save()
                        raise runs.Unfinished(done, state["seconds"])
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
                    loss_sum += loss * len(chosen)  # on the device: a GPU does not wait for the host
                    state["seen"] += len(chosen)
                    if longest(fabric, time.monotonic() - saved) > 60 * config.checkpoint_minutes:
                        saved = save()
                if state["seen"] or not state["learning_curve"]:
                    check_finite()  # before the evaluation, which refuses NaN
                    _finish_epoch(fabric, network, held_out, config, state, optimizer.param_groups[0]["lr"])
                    loss_sum.zero_()
                bar.set_postfix(validation_mase=f"{state['learning_curve'][-1]['validation_mase']:.2f} %")
                saved = save()
    network.load_state_dict(state["best"])
    return state["learning_curve"]


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


def read_run(folder, proximal=None) -> tuple[RLN, TrainingConfig, list[dict]]:
    """Read what a training run left in its folder.

    Args:
        folder: that of :func:`train`.
        proximal: for a network that is not the library's: the function or class that makes it.

    Returns:
        The model of the best epoch so far, in evaluation mode, the recipe and the learning curve.

    Raises:
        OSError: if the folder has no readable checkpoint, or none after a whole epoch.
        ValueError: for a network that is not the library's and not passed.
    """
    saved = runs.read_checkpoint(Path(folder))
    if not saved["state"]["learning_curve"]:
        raise OSError(f"The run in {folder} has not finished an epoch yet.")
    model = RLN.from_config(saved["model"], proximal)
    model.load_state_dict(saved["state"]["best"])
    return model.eval(), TrainingConfig(**saved["config"]), saved["state"]["learning_curve"]


def _finish_epoch(fabric, network, held_out, config, state, rate) -> None:
    """Measure the validation error, keep the weights if they are the best, and begin the next epoch in ``state``."""
    share = slice(fabric.global_rank, None, fabric.world_size)
    dtype = torch.bfloat16 if config.precision == "bf16-mixed" else torch.float32
    cells, target = held_out[0][share], held_out[1][share]
    sum_of_errors = mase(predict_strain(network, cells, dtype=dtype), target).sum()
    total = torch.as_tensor(fabric.all_reduce(sum_of_errors.to(fabric.device), reduce_op="sum"))
    error = float(total) / len(held_out[0])
    row = {
        "epoch": state["epoch"] + 1,
        "training_loss": state["loss_sum"] / state["seen"] if state["seen"] else math.nan,
        "validation_mase": error,
        "learning_rate": rate,
        "seconds": round(state["seconds"], 1),
    }
    if error < state["best_error"]:
        state["best_error"] = error
        state["best"] = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    state["learning_curve"].append(row)
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


def _pair(name: str, data) -> tuple[torch.Tensor, torch.Tensor]:
    """Check a data set. Shape: -> stiff and strain_xx (n, N, N, N), on the CPU. Raises ValueError."""
    stiff, strain = data.tensors() if hasattr(data, "tensors") and callable(data.tensors) else _checks.pair(name, data)
    stiff, strain = _checks.as_tensor(stiff, name), _checks.as_tensor(strain, name)
    if stiff.ndim != 4 or stiff.shape != strain.shape or len(stiff) == 0:
        raise ValueError(
            f"{name} must be non-empty stiff and strain_xx of one shape (n, N, N, N); they have "
            f"{tuple(stiff.shape)} and {tuple(strain.shape)}."
        )
    if not bool(torch.isfinite(strain).all()):
        raise ValueError(f"{name} contains NaN or infinity in its strains: solve or repair the data set again.")
    return stiff.cpu(), strain.float().cpu()
