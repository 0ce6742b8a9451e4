"""min_theta sum_i w_i L_i: calibration of a recurrent localization network (section 3.2), resumable at any moment.

What is random depends on (seed, epoch, batch) alone, so a run that was killed and resumed on the same device ends
with the same weights, bit for bit, as an undisturbed one.

Started by ``torchrun``, each process takes its share of every batch and all of them one step together: two processes
make the step of one with a batch twice as large. They share the folder.
"""

from __future__ import annotations

import csv
import io
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from tqdm.auto import tqdm

from rlnlib import _checks
from rlnlib.metrics import mase
from rlnlib.rln import RLN, phase_indicators, predict_strain
from rlnlib.weight_files import write_atomically

LOSSES = ("mse", "rmse", "mae")
CHECKPOINT, HISTORY = "checkpoint.pt", "history.csv"


class Unfinished(Exception):
    """A run that used up its slice of time; its checkpoint is written, and the same call goes on from there.

    ``done`` is the fraction of the run that is done, ``seconds`` what it took so far.
    """

    def __init__(self, done: float, seconds: float):
        super().__init__(
            f"{100 * done:.1f} % of the training is done after {seconds / 60:.1f} minutes: call again to go on."
        )
        self.done, self.seconds = done, seconds


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe; the defaults are the paper's (section 4), with the released code's clipping.

    ``loss``: "mse" is the text's, the sum over the passes of w_i times the mean square error; "rmse" the released
    code's, the mean over the passes of 100 sqrt(mean square error) / mean strain; "mae" the same of the mean absolute
    error, which is what MASE measures. ``pass_weights`` are the w_i, one for each pass (1 by default). The gradient
    norm is clipped at 2 x passes. ``augment`` shifts cells, mirrors them and exchanges the transverse axes, all exact
    for a load along axis 0. The learning rate rises linearly over the first ``warm_up`` part of the run, then falls
    along a cosine; with ``max_minutes`` the run ends with the time, if that comes before ``epochs``. ``batch_size``
    is that of one process.
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
        for name in ("epochs", "batch_size"):
            _checks.positive_integer(name, getattr(self, name))
        for name in ("learning_rate", "final_learning_rate", "checkpoint_minutes"):
            _checks.positive(name, getattr(self, name))
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"warm_up must be a part of the run, from 0 to less than 1; it is {self.warm_up!r}.")
        _checks.one_of("loss", self.loss, LOSSES)
        if self.pass_weights is not None:
            object.__setattr__(self, "pass_weights", tuple(_checks.positive("a weight", w) for w in self.pass_weights))
        _checks.one_of("precision", self.precision, ("32-true", "bf16-mixed"))
        if self.max_minutes is not None:
            _checks.positive("max_minutes", self.max_minutes)


def fast_precision(device: str = "auto") -> str:
    """The precision to train in: "bf16-mixed" where the device has matrix units for bfloat16, else "32-true".

    Without that hardware, or where the environment keeps torch from using it, bfloat16 convolutions on a CPU take a
    hundred times as long as with it.
    """
    if device != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    known = [getattr(torch.cpu, name, bool) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    used = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
    return "bf16-mixed" if used and any(supported() for supported in known) else "32-true"


def train(
    model: RLN,
    train_set,
    validation_set,
    config: TrainingConfig,
    folder,
    device="auto",
    progress=False,
    slice_minutes: float | None = None,
):
    """Calibrate ``model`` in place and return the history, a list of one dict an epoch.

    The model ends with the weights of the epoch of lowest validation error. ``folder`` receives a checkpoint after
    each epoch and every ``config.checkpoint_minutes``, and ``history.csv``; a folder with a checkpoint is resumed,
    and a finished one only read. The sets are pairs of tensors, stiff (n, N, N, N) and strain_xx (n, N, N, N), or
    have a method ``tensors`` that gives such a pair; the training set is held on the device. After
    ``slice_minutes`` of this call an unfinished run is saved and :class:`Unfinished` raised, without a change to the
    recipe: so a long run fits into short leases of a machine.

    Raises ValueError for bad sets or weights, OSError if the folder belongs to another recipe or its checkpoint is
    damaged, FloatingPointError if the loss or a weight is no longer finite; the last good checkpoint is kept.
    """
    stiff, strain = _pair("train_set", train_set)
    held_out = _pair("validation_set", validation_set)
    if config.pass_weights is not None and len(config.pass_weights) != model.passes:
        raise ValueError(f"pass_weights has {len(config.pass_weights)} entries; the model makes {model.passes} passes.")
    weights = torch.tensor(config.pass_weights or [1.0] * model.passes)
    folder = Path(folder)
    fabric = _fabric(device, config.precision)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    network = model.to(fabric.device)
    model, optimizer = fabric.setup(network, optimizer)
    state = _resume(folder, network, optimizer, config)
    stiff, strain, weights = fabric.to_device((stiff, strain, weights))
    step_size = config.batch_size * fabric.world_size
    batches = math.ceil(len(stiff) / step_size)
    entered = saved = time.monotonic()
    started = entered - state["seconds"]
    loss_sum = torch.tensor(state["loss_sum"], dtype=torch.float64, device=fabric.device)

    def check_finite():
        state["loss_sum"] = float(loss_sum)
        if not math.isfinite(state["loss_sum"]) or not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
            raise FloatingPointError(
                f"The loss or a weight is no longer finite in epoch {state['epoch'] + 1}: lower the learning rate, or "
                f"set warm_up. If there is a checkpoint in {folder}, it is from before."
            )

    def save():
        check_finite()
        if fabric.is_global_zero:
            _save(folder, network, optimizer, config, state)
        fabric.barrier()
        return time.monotonic()

    before = state["epoch"] * batches + state["batch"]  # what an earlier call has done says nothing of the rate
    with tqdm(initial=before, total=config.epochs * batches, unit="batch", disable=not progress) as bar:
        while state["epoch"] < config.epochs and not state["out_of_time"]:
            order = torch.randperm(len(stiff), generator=_generator(config.seed, state["epoch"]))
            order = torch.cat([order, order[: -len(order) % fabric.world_size]])  # an equal share for each process
            while state["batch"] < batches:
                step = state["epoch"] * batches + state["batch"]
                bar.update(step + 1 - bar.n)
                state["seconds"] = _longest(fabric, time.monotonic() - started)
                done = step / (config.epochs * batches)
                if config.max_minutes is not None and state["seconds"] > 60 * config.max_minutes * done:
                    done = state["seconds"] / (60 * config.max_minutes)
                    bar.total = max(step + 1, round(step / done))  # the batches that the minutes leave time for
                if done >= 1:
                    state["out_of_time"] = True
                    break
                if slice_minutes is not None and state["seconds"] - (entered - started) > 60 * slice_minutes:
                    save()
                    raise Unfinished(done, state["seconds"])
                for group in optimizer.param_groups:
                    group["lr"] = _rate(config, done)
                chosen = order[state["batch"] * step_size : (state["batch"] + 1) * step_size]
                # Drawn for the whole batch, so that they do not depend on the number of processes.
                moves = _draw_moves(len(chosen), _generator(config.seed, state["epoch"], state["batch"]))
                share = slice(fabric.global_rank, None, fabric.world_size)
                records, moves = fabric.to_device((chosen[share], moves[share]))
                cells, target = stiff[records], strain[records]
                if config.augment:
                    cells, target = _moved(cells, moves), _moved(target, moves)
                target = target[:, None]
                iterates = model(phase_indicators(cells), return_iterates=True)
                # Over the batches of all processes, since the root of a mean is not the mean of roots.
                errors = _mean_over_processes(fabric, pass_errors(iterates, target, config.loss))
                loss = training_loss(errors, _mean_over_processes(fabric, target.mean()), config.loss, weights)
                optimizer.zero_grad()
                fabric.backward(loss)
                fabric.clip_gradients(model, optimizer, max_norm=2.0 * network.passes, error_if_nonfinite=False)
                optimizer.step()
                state["batch"] += 1
                loss_sum += loss.detach() * len(chosen)  # on the device: a GPU does not wait for the host
                state["seen"] += len(chosen)
                if _longest(fabric, time.monotonic() - saved) > 60 * config.checkpoint_minutes:
                    saved = save()
            if state["seen"] or not state["history"]:
                check_finite()  # before the evaluation, which refuses NaN
                _finish_epoch(fabric, network, held_out, config, state, optimizer.param_groups[0]["lr"])
                loss_sum.zero_()
            bar.set_postfix(validation_mase=f"{state['history'][-1]['validation_mase']:.2f} %")
            saved = save()
    network.load_state_dict(state["best"])
    return state["history"]


def _fabric(device, precision: str) -> Fabric:
    """One process, or those that ``torchrun`` started, each with its own device."""
    world, here = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    fabric = Fabric(
        accelerator=str(device).split(":")[0],
        devices=here,
        num_nodes=world // here,
        strategy="ddp" if world > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def _longest(fabric: Fabric, seconds: float) -> float:
    """The largest of the processes' times, so that all of them decide alike."""
    if fabric.world_size == 1:
        return seconds
    return float(torch.as_tensor(fabric.all_reduce(torch.tensor(seconds, device=fabric.device), reduce_op="max")))


def _mean_over_processes(fabric: Fabric, value: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(fabric.all_gather(value, sync_grads=True)).view(-1, *value.shape).mean(0)


def pass_errors(iterates: list[torch.Tensor], target: torch.Tensor, kind: str) -> torch.Tensor:
    """Mean square error of each pass, mean absolute error for "mae". Shape: N fields (B, 1, N1, N2, N3) -> (N,)."""
    differences = [iterate - target for iterate in iterates]
    return torch.stack([(d.abs() if kind == "mae" else d.square()).mean() for d in differences])


def training_loss(errors: torch.Tensor, mean_strain, kind: str, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The calibration loss sum_i w_i L_i over all passes, w_i = 1 by default; see :class:`TrainingConfig`.

    Shape: errors (N,) of :func:`pass_errors`, weights (N,) -> ().
    """
    weights = torch.ones_like(errors) if weights is None else weights
    if kind == "mse":
        return (weights * errors).sum()
    return 100 * (weights * (errors.sqrt() if kind == "rmse" else errors)).mean() / mean_strain


def augmented(cells: torch.Tensor, strain: torch.Tensor, generator: torch.Generator):
    """Random symmetry copies of a batch: any shift, mirrors of the three axes, exchange of the transverse axes.

    The axial strain under a load along axis 0 has all of them. Shape: two (B, N, N, N) -> the same.
    """
    moves = _draw_moves(len(cells), generator).to(cells.device)
    return _moved(cells, moves), _moved(strain, moves)


def _draw_moves(count: int, generator: torch.Generator) -> torch.Tensor:
    """Shifts along three axes, mirrors of three axes, exchange. Shape: -> (count, 7) int64."""
    return torch.randint(0, 2**31 - 1, (count, 7), generator=generator)


def _moved(field: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """Shape: (B, N1, N2, N3), (B, 7) -> (B, N1, N2, N3)."""
    odd = moves[:, 3:] % 2 == 1
    index = []
    for axis, n in enumerate(field.shape[1:]):
        at = (torch.arange(n, device=field.device) - moves[:, axis : axis + 1]) % n  # (B, n)
        at = torch.where(odd[:, axis : axis + 1], at.flip(1), at)
        index.append(at.view([len(field), *(n if a == axis else 1 for a in range(3))]))
    batch = torch.arange(len(field), device=field.device).view(-1, 1, 1, 1)
    moved = field[tuple([batch, *index])]
    if field.shape[2] == field.shape[3]:
        moved = torch.where(odd[:, 3].view(-1, 1, 1, 1), moved.transpose(2, 3), moved)
    return moved


def read_history(folder, name: str = HISTORY) -> list[dict[str, float]]:
    """The history that a training run left in its folder, one dict an epoch."""
    with open(Path(folder) / name, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def write_history(path, history: list[dict]) -> None:
    """The inverse of :func:`read_history`."""
    table = io.StringIO()
    writer = csv.DictWriter(table, history[0])
    writer.writeheader()
    writer.writerows(history)
    write_atomically(path, table.getvalue().encode())


def read_run(folder) -> tuple[RLN, TrainingConfig, list[dict]]:
    """What a training run left in its folder: the model of its best epoch so far, its recipe and its history.

    Raises OSError if the folder has no readable checkpoint, or none after a whole epoch.
    """
    saved = _read_checkpoint(Path(folder) / CHECKPOINT)
    if not saved["state"]["history"]:
        raise OSError(f"The run in {folder} has not finished an epoch yet.")
    model = RLN(**saved["model"])
    model.load_state_dict(saved["state"]["best"])
    return model.eval(), TrainingConfig(**saved["config"]), saved["state"]["history"]


def _finish_epoch(fabric, network, held_out, config, state, rate) -> None:
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
    state["history"].append(row)
    state.update(epoch=state["epoch"] + 1, batch=0, loss_sum=0.0, seen=0)


def _resume(folder: Path, network: RLN, optimizer, config: TrainingConfig) -> dict:
    start = {"epoch": 0, "batch": 0, "loss_sum": 0.0, "seen": 0, "seconds": 0.0, "history": [], "out_of_time": False}
    start.update(best_error=math.inf, best={})
    if not (folder / CHECKPOINT).exists():
        return start
    saved = _read_checkpoint(folder / CHECKPOINT)
    wanted = {"config": asdict(config), "model": network.config}
    if {key: saved[key] for key in wanted} != wanted:
        raise OSError(
            f"{folder} holds a run with another recipe ({saved['model']}, {saved['config']}): choose another folder."
        )
    network.load_state_dict(saved["weights"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["state"]


def _read_checkpoint(path: Path) -> dict:
    if not path.exists():
        raise FileNotFoundError(f"No training run at {path.parent}: it has no {path.name}.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise OSError(f"{path} is damaged ({error}): delete the folder to start again.") from error


def _save(folder: Path, network: RLN, optimizer, config: TrainingConfig, state: dict) -> None:
    content = io.BytesIO()
    saved = {"config": asdict(config), "model": network.config, "state": state}
    torch.save({**saved, "weights": network.state_dict(), "optimizer": optimizer.state_dict()}, content)
    write_atomically(folder / CHECKPOINT, content.getvalue())
    if state["history"]:
        write_history(folder / HISTORY, state["history"])


def _rate(config: TrainingConfig, done: float) -> float:
    """Linear rise over the warm-up, then cosine decay to the final learning rate, over 0 <= done <= 1."""
    if done < config.warm_up:
        return config.learning_rate * done / config.warm_up
    fall = (1 + math.cos(math.pi * (done - config.warm_up) / (1 - config.warm_up))) / 2
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * fall


def _generator(*key: int) -> torch.Generator:
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return torch.Generator().manual_seed(seed)


def _pair(name: str, data) -> tuple[torch.Tensor, torch.Tensor]:
    stiff, strain = data.tensors() if hasattr(data, "tensors") and callable(data.tensors) else data
    if stiff.ndim != 4 or stiff.shape != strain.shape or len(stiff) == 0:
        raise ValueError(
            f"{name} must be non-empty stiff and strain_xx of one shape (n, N, N, N); they have "
            f"{tuple(stiff.shape)} and {tuple(strain.shape)}."
        )
    if not bool(torch.isfinite(strain).all()):
        raise ValueError(f"{name} contains NaN or infinity in its strains: solve or repair the data set again.")
    return stiff, strain.float()
