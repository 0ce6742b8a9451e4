"""A training run in a folder: resumable at any moment, watched by a clock, in slices of time.

The folder holds a checkpoint with its checksum, and the learning curve as a table. Processes of ``torchrun`` share it.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import math
import time
import zlib
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from rlnlib import _checks, training
from rlnlib._files import differences, locked, write_atomically, writing
from rlnlib.fast.processes import longest
from rlnlib.rln import RLN
from rlnlib.training import Run, TrainingConfig
from rlnlib.weight_files import untrained

CHECKPOINT, LEARNING_CURVE = "checkpoint.pt", "learning_curve.csv"
#: What a checkpoint holds: recipe, network and data by which a run is known, and where it stands.
PARTS = {"config", "model", "data", "state", "weights", "optimizer"}


class Unfinished(Exception):
    """A run that used up its slice of time; its checkpoint is written, and the same call goes on from there.

    ``done`` is the fraction of the run that is done, ``seconds`` what it took so far.
    """

    def __init__(self, done: float, seconds: float):
        super().__init__(
            f"{100 * done:.1f} % of the training is done after {seconds / 60:.1f} minutes: call again to go on."
        )
        self.done, self.seconds = done, seconds


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
    """Calibrate ``model`` in place, as :func:`rlnlib.training.train` does, with its run kept in a folder.

    Args:
        model, train_set, validation_set, config, device: as there; ``config.max_minutes`` counts all calls together.
        folder: receives a checkpoint after each epoch and every ``config.checkpoint_minutes``, and
            ``learning_curve.csv``. A folder with a checkpoint is resumed, and a finished one only read.
        progress: show a bar.
        slice_minutes: time of this call, after which an unfinished run is saved and :class:`Unfinished` raised; one
            step is made in any case. It is no part of the recipe: so a long run fits into short leases of a machine.

    Returns:
        The learning curve: one dict an epoch.

    Raises:
        ValueError: for bad sets or weights.
        OSError: if the folder belongs to another recipe, network or data, if another process works in it, if its
            checkpoint is damaged, or if it cannot be written.
        FloatingPointError: if the loss or a weight is no longer finite; the last good checkpoint is kept.
    """
    if slice_minutes is not None and (not isinstance(slice_minutes, (int, float)) or math.isnan(slice_minutes)):
        raise ValueError(f"slice_minutes must be a number of minutes; it is {slice_minutes!r}.")
    folder = _checks.as_path(folder, "folder")
    with contextlib.ExitStack() as stack:
        keeper = _Folder(folder, (train_set, validation_set), stack, progress, slice_minutes)
        try:
            return training.train(model, train_set, validation_set, config, keeper, device)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{folder} keeps all up to the last checkpoint: call again to go on.") from None


class _Folder(training.Keeper):
    """Keeps a run in a folder, and ends it, or this call, in time."""

    def __init__(self, folder: Path, given: tuple, stack: contextlib.ExitStack, progress, slice_minutes: float | None):
        self.folder, self.given, self.stack = folder, given, stack
        self.progress, self.slice_minutes = progress, slice_minutes

    def begin(self, run: Run) -> None:
        data = {
            "train": describe_data(*run.train_set, self.given[0]),
            "validation": describe_data(*run.validation_set, self.given[1]),
        }
        # The folder is held to these.
        self.known = {"config": asdict(run.config), "model": run.network.config, "data": data}
        if run.fabric.is_global_zero:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            self.stack.enter_context(locked(self.folder))
        if before := read_matching_checkpoint(self.folder, self.known):
            run.network.load_state_dict(before["weights"])
            run.optimizer.load_state_dict(before["optimizer"])
            run.state.update(before["state"])
        self._check_processes(run)
        self._write_learning_curve(run)  # a kill may have come between the two files
        self.entered = self.saved = time.monotonic()
        self.before, self.first = run.state["seconds"], run.number
        bar = tqdm(initial=run.number, total=run.total, unit="batch", disable=not self.progress)
        self.bar = self.stack.enter_context(bar)

    def _check_processes(self, run: Run) -> None:
        """Note how many processes take a batch at each step, and refuse another number: the steps would be others."""
        here = run.fabric.world_size
        before = run.state.setdefault("processes", here)
        if before != here and run.state["epoch"] < run.config.epochs and not run.state["out_of_time"]:
            raise OSError(
                f"{self.folder} holds a run of {before} processes, each of which takes a batch at every step, and here "
                f"are {here}: start as many again, or choose another folder."
            )

    def done(self, run: Run) -> float:
        state, config, number = run.state, run.config, run.number
        self.bar.update(number + 1 - self.bar.n)
        state["seconds"] = self.before + longest(run.fabric, time.monotonic() - self.entered)
        done = number / run.total
        if config.max_minutes is not None and state["seconds"] > 60 * config.max_minutes * done:
            done = state["seconds"] / (60 * config.max_minutes)
            self.bar.total = max(number + 1, round(number / done))  # as many batches as the minutes allow
        spent = state["seconds"] - self.before
        if done < 1 and self.slice_minutes is not None and number > self.first and spent > 60 * self.slice_minutes:
            self.save(run)
            raise Unfinished(done, state["seconds"])
        return done

    def after_batch(self, run: Run) -> None:
        if longest(run.fabric, time.monotonic() - self.saved) > 60 * run.config.checkpoint_minutes:
            self.save(run)

    def after_epoch(self, run: Run) -> None:
        self.bar.set_postfix(validation_mase=f"{run.state['learning_curve'][-1]['validation_mase']:.2f} %")
        self.save(run)

    def save(self, run: Run) -> None:
        run.check_finite()
        if run.fabric.is_global_zero:
            tensors = {"weights": run.network.state_dict(), "optimizer": run.optimizer.state_dict()}
            state = {**run.state, "loss_sum": float(run.state["loss_sum"])}
            write_checkpoint(self.folder, {**self.known, "state": state, **tensors})
            self._write_learning_curve(run)
        run.fabric.barrier()
        self.saved = time.monotonic()

    def _write_learning_curve(self, run: Run) -> None:
        if run.fabric.is_global_zero and run.state["learning_curve"]:
            write_learning_curve(self.folder / LEARNING_CURVE, run.state["learning_curve"])


def read_run(folder, proximal=None) -> tuple[RLN, TrainingConfig, list[dict]]:
    """Read what a training run left in its folder.

    Args:
        folder: of the run.
        proximal: for a network that is not the library's: the function or class that makes it.

    Returns:
        The model of the best epoch so far, in evaluation mode, the recipe and the learning curve.

    Raises:
        OSError: if the folder has no readable checkpoint, or none after a whole epoch.
        ValueError: for a network that is not the library's and not passed.
    """
    saved = read_checkpoint(Path(folder))
    if not saved["state"]["learning_curve"]:
        raise OSError(f"The run in {folder} has not finished an epoch yet.")
    model = untrained(saved["model"], proximal)
    model.load_state_dict(saved["state"]["best"])
    return model.eval(), TrainingConfig(**saved["config"]), saved["state"]["learning_curve"]


def write_checkpoint(folder: Path, saved: dict) -> None:
    """Write the checkpoint of a run, whole or not at all, with its checksum.

    Args:
        folder: of the run.
        saved: what :data:`PARTS` names.

    Raises:
        OSError: where the folder cannot be written.
    """
    content = io.BytesIO()
    torch.save(saved, content)
    body = content.getvalue()
    with writing(folder / CHECKPOINT):
        write_atomically(folder / CHECKPOINT, body + zlib.crc32(body).to_bytes(4, "little"))


def read_checkpoint(folder: Path) -> dict:
    """Read the checkpoint of a run.

    Args:
        folder: of the run.

    Returns:
        What :data:`PARTS` names, on the CPU.

    Raises:
        OSError: if there is none, or a bit of it is not what was written; torch itself would not notice that.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(f"No training run at {folder}: it has no {path.name}.")
    content = path.read_bytes()
    try:
        if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
            raise ValueError("its checksum is not that of its content")
        saved = torch.load(io.BytesIO(content[:-4]), map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or saved.keys() != PARTS or "learning_curve" not in saved["state"]:
            raise ValueError("it does not hold what a checkpoint of this version holds")
    except Exception as error:  # torch raises many types
        raise OSError(
            f"{path} is damaged, or of another version of the library ({error}): train in another folder, or put a "
            f"copy of the file in its place."
        ) from error
    return saved


def read_matching_checkpoint(folder: Path, run: dict) -> dict | None:
    """Read the checkpoint of a folder, if it is that of the given run.

    Args:
        folder: of the run.
        run: its "config", "model" and "data", as a checkpoint has them.

    Returns:
        What :func:`read_checkpoint` returns; None where the folder has no checkpoint.

    Raises:
        OSError: if the folder holds another run, or a damaged one.
    """
    if not (folder / CHECKPOINT).exists():
        return None
    saved = read_checkpoint(folder)
    for part, word in (("model", "network"), ("config", "recipe"), ("data", "data")):
        if saved[part] != run[part]:
            raise OSError(
                f"{folder} holds a run with another {word} ({differences(saved[part], run[part])}): choose another "
                f"folder."
            )
    return saved


def describe_data(stiff: torch.Tensor, strain: torch.Tensor, data) -> dict:
    """Say which cells and strains a run was trained with.

    Args:
        stiff: (n, N, N, N).
        strain: (n, N, N, N).
        data: what the caller gave for them; its ``parameters``, if it has any, say with what they were made.

    Returns:
        Number, size and hash of the cells, and "made" where it is known.
    """
    digest = hashlib.sha256()
    for field in (stiff.to(torch.uint8), strain):
        digest.update(field.contiguous().numpy().data)
    made = {"made": asdict(data.parameters)} if hasattr(data, "parameters") else {}
    return {"cells": len(stiff), "size": list(stiff.shape[1:]), "sha256": digest.hexdigest(), **made}


def read_learning_curve(folder, name: str = LEARNING_CURVE) -> list[dict[str, float]]:
    """Read the learning curve that a run left in its folder.

    Args:
        folder: where it lies.
        name: of the file.

    Returns:
        One dict an epoch: number, training loss, validation error, learning rate, seconds.

    Raises:
        OSError: where there is none, or another table.
    """
    path = Path(folder) / name
    with open(path, newline="", encoding="utf-8") as file:
        try:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        except (ValueError, TypeError, csv.Error) as error:
            raise OSError(f"{path} is not a table of numbers ({error}).") from error


def write_learning_curve(path, learning_curve: list[dict]) -> None:
    """Write what :func:`read_learning_curve` reads; a file that holds it already is left alone.

    Args:
        path: the file.
        learning_curve: one dict an epoch, at least one.

    Raises:
        OSError: where it cannot be written.
    """
    table = io.StringIO()
    writer = csv.DictWriter(table, learning_curve[0])
    writer.writeheader()
    writer.writerows(learning_curve)
    content, path = table.getvalue().encode(), Path(path)
    if not path.exists() or path.read_bytes() != content:
        with writing(path):
            write_atomically(path, content)
