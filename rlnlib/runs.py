"""The folder of a training run: a checkpoint with its checksum, and the learning curve as a table."""

from __future__ import annotations

import csv
import hashlib
import io
import zlib
from dataclasses import asdict
from pathlib import Path

import torch

from rlnlib._files import write_atomically, writing

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
                f"{folder} holds a run with another {word} ({_differences(saved[part], run[part])}): choose another "
                f"folder."
            )
    return saved


def _differences(there: dict, wanted: dict) -> str:
    """Name what differs. Shape: two nested dicts -> "contrast 50.0 there, 10.0 here; ..."."""
    words = []
    for key in [*there, *(key for key in wanted if key not in there)]:
        one, other = there.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            words += [f"{key}: {_differences(one, other)}"] if one != other else []
        elif one != other:
            words.append(f"{key} {one} there, {other} here")
    return "; ".join(words)


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
