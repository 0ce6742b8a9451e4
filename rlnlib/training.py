"""min_theta sum_i w_i L_i: calibration of a recurrent localization network (section 3.2), resumable at any moment.

What is random depends on (seed, epoch, batch) alone, so a run that was killed and resumed on the same device ends
with the same weights, bit for bit, as an undisturbed one.
"""

from __future__ import annotations

import csv
import io
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from tqdm.auto import tqdm

from rlnlib import _checks
from rlnlib.checkpoints import write_atomically
from rlnlib.metrics import mase
from rlnlib.rln import RLN, phase_indicators, predict_strain

LOSSES = ("mse", "rmse")
CHECKPOINT, HISTORY = "checkpoint.pt", "history.csv"


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe; the defaults are the paper's (section 4), with the released code's clipping.

    ``loss``: "mse" is the text's, the sum over the passes of the mean square error; "rmse" the released code's, the
    mean over the passes of 100 sqrt(mean square error) / mean strain. The gradient norm is clipped at 2 x passes.
    ``augment`` shifts cells, mirrors them and exchanges the transverse axes, all exact for a load along axis 0.
    With ``max_minutes`` the cosine decay runs out with the time, if that comes before ``epochs``.
    """

    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-8
    loss: str = "mse"
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
        _checks.one_of("loss", self.loss, LOSSES)
        _checks.one_of("precision", self.precision, ("32-true", "bf16-mixed"))
        if self.max_minutes is not None:
            _checks.positive("max_minutes", self.max_minutes)


def train(model: RLN, train_set, validation_set, config: TrainingConfig, folder, device="auto", progress=False):
    """Calibrate ``model`` in place and return the history, a list of one dict an epoch.

    The model ends with the weights of the epoch of lowest validation error. ``folder`` receives a checkpoint after
    each epoch and every ``config.checkpoint_minutes``, and ``history.csv``; a folder with a checkpoint is resumed,
    and a finished one only read. The sets are pairs of tensors, stiff (n, N, N, N) and strain_xx (n, N, N, N), or
    have a method ``tensors`` that gives such a pair.

    Raises ValueError for bad sets, OSError if the folder belongs to another recipe or its checkpoint is damaged.
    """
    stiff, strain = _pair("train_set", train_set)
    held_out = _pair("validation_set", validation_set)
    folder = Path(folder)
    fabric = Fabric(accelerator=str(device).split(":")[0], devices=1, precision=config.precision)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    network = model.to(fabric.device)
    model, optimizer = fabric.setup(network, optimizer)
    state = _resume(folder, model, optimizer, config)
    batches = math.ceil(len(stiff) / config.batch_size)
    started, saved = time.monotonic() - state["seconds"], time.monotonic()

    with tqdm(total=config.epochs * batches, unit="batch", disable=not progress) as bar:
        while state["epoch"] < config.epochs and not state["out_of_time"]:
            order = torch.randperm(len(stiff), generator=_generator(config.seed, state["epoch"]))
            while state["batch"] < batches:
                step = state["epoch"] * batches + state["batch"]
                bar.update(step + 1 - bar.n)
                state["seconds"] = time.monotonic() - started
                done = step / (config.epochs * batches)
                if config.max_minutes is not None:
                    done = max(done, state["seconds"] / (60 * config.max_minutes))
                if done >= 1:
                    state["out_of_time"] = True
                    break
                for group in optimizer.param_groups:
                    group["lr"] = _cosine(config, done)
                batch = order[state["batch"] * config.batch_size : (state["batch"] + 1) * config.batch_size]
                cells, target = stiff[batch], strain[batch]
                if config.augment:
                    cells, target = augmented(cells, target, _generator(config.seed, state["epoch"], state["batch"]))
                target = fabric.to_device(target)[:, None]
                iterates = model(phase_indicators(fabric.to_device(cells)), return_iterates=True)
                loss = training_loss(iterates, target, config.loss)
                optimizer.zero_grad()
                fabric.backward(loss)
                fabric.clip_gradients(model, optimizer, max_norm=2.0 * model.passes, error_if_nonfinite=True)
                optimizer.step()
                state["batch"] += 1
                state["loss_sum"] += float(loss.detach()) * len(batch)
                state["seen"] += len(batch)
                if time.monotonic() - saved > 60 * config.checkpoint_minutes:
                    saved = time.monotonic()
                    _save(folder, model, optimizer, config, state)
            if state["seen"] or not state["history"]:
                _finish_epoch(model, held_out, config, state, optimizer.param_groups[0]["lr"])
            bar.set_postfix(validation_mase=f"{state['history'][-1]['validation_mase']:.2f} %")
            saved = time.monotonic()
            _save(folder, model, optimizer, config, state)
    network.load_state_dict(state["best"])
    return state["history"]


def training_loss(iterates: list[torch.Tensor], target: torch.Tensor, kind: str) -> torch.Tensor:
    """The calibration loss over all passes, with the paper's uniform weights w_i = 1."""
    errors = torch.stack([(iterate - target).square().mean() for iterate in iterates])
    if kind == "mse":
        return errors.sum()
    return 100 * errors.sqrt().mean() / target.mean()


def augmented(cells: torch.Tensor, strain: torch.Tensor, generator: torch.Generator):
    """Random symmetry copies of a batch: any shift, mirrors of the three axes, exchange of the transverse axes.

    The axial strain under a load along axis 0 has all of them. Shape: two (B, N, N, N) -> the same.
    """
    moved = []
    for cell, field in zip(cells, strain, strict=True):
        draw = torch.randint(0, 2**31 - 1, (7,), generator=generator).tolist()
        shifts = [d % n for d, n in zip(draw, cell.shape, strict=False)]
        mirrors = [axis for axis in range(3) if draw[3 + axis] % 2]
        pair = [torch.roll(part, shifts, (0, 1, 2)).flip(mirrors) for part in (cell, field)]
        if draw[6] % 2 and cell.shape[1] == cell.shape[2]:
            pair = [part.transpose(1, 2) for part in pair]
        moved.append(pair)
    return torch.stack([pair[0] for pair in moved]), torch.stack([pair[1] for pair in moved])


def read_history(folder, name: str = HISTORY) -> list[dict[str, float]]:
    """The history that a training run left in its folder, one dict an epoch."""
    with open(Path(folder) / name, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _finish_epoch(model, held_out, config, state, rate) -> None:
    error = float(mase(predict_strain(model.module, held_out[0], config.batch_size), held_out[1]).mean())
    row = {
        "epoch": state["epoch"] + 1,
        "training_loss": state["loss_sum"] / state["seen"] if state["seen"] else math.nan,
        "validation_mase": error,
        "learning_rate": rate,
        "seconds": round(state["seconds"], 1),
    }
    if error < state["best_error"]:
        state["best_error"] = error
        state["best"] = {name: value.detach().cpu().clone() for name, value in model.module.state_dict().items()}
    state["history"].append(row)
    state.update(epoch=state["epoch"] + 1, batch=0, loss_sum=0.0, seen=0)


def _resume(folder: Path, model, optimizer, config: TrainingConfig) -> dict:
    start = {"epoch": 0, "batch": 0, "loss_sum": 0.0, "seen": 0, "seconds": 0.0, "history": [], "out_of_time": False}
    start.update(best_error=math.inf, best={})
    if not (folder / CHECKPOINT).exists():
        return start
    try:
        saved = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise OSError(f"{folder / CHECKPOINT} is damaged ({error}): delete the folder to start again.") from error
    wanted = {"config": asdict(config), "model": model.module.config}
    if {key: saved[key] for key in wanted} != wanted:
        raise OSError(
            f"{folder} holds a run with another recipe ({saved['model']}, {saved['config']}): choose another folder."
        )
    model.module.load_state_dict(saved["weights"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["state"]


def _save(folder: Path, model, optimizer, config: TrainingConfig, state: dict) -> None:
    content = io.BytesIO()
    saved = {"config": asdict(config), "model": model.module.config, "state": state}
    torch.save({**saved, "weights": model.module.state_dict(), "optimizer": optimizer.state_dict()}, content)
    write_atomically(folder / CHECKPOINT, content.getvalue())
    if state["history"]:
        table = io.StringIO()
        writer = csv.DictWriter(table, state["history"][0])
        writer.writeheader()
        writer.writerows(state["history"])
        write_atomically(folder / HISTORY, table.getvalue().encode())


def _cosine(config: TrainingConfig, done: float) -> float:
    """Cosine decay from the first to the final learning rate over 0 <= done <= 1."""
    fall = (1 + math.cos(math.pi * done)) / 2
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
