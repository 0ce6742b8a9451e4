"""What a number was made with: commit, versions, machine and weights; and the one writer of records, which say so.

A record is a JSON file named as the script that makes it: ``experiments/NAME.py`` makes ``data/results/NAME.json``, and
``benchmarks/NAME.py`` makes ``benchmarks/results/NAME.json``.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

import torch

from rlnlib import dataset, metrics, weight_files
from rlnlib._version import __version__

ROOT = Path(__file__).resolve().parents[1]


def parse(question: str, **options) -> argparse.Namespace:
    """Read the command line of a script that makes a record.

    Args:
        question: the script's docstring, shown by ``--help``.
        options: name and default of each option; the default gives the type, and a tuple takes several values.

    Returns:
        The values given, with ``device`` ("cpu" or "cuda") and ``out`` (the record's path, or None) beside them.
    """
    parser = argparse.ArgumentParser(description=question, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in options.items():
        many = isinstance(default, tuple)
        kind = type(default[0] if many else default)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, dest=name, type=kind, default=default, nargs="+" if many else None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path)
    parsed = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return parsed


def write_record(question: str, options: argparse.Namespace, result: dict, *, key: str = "", packages=()) -> None:
    """Print a record, and write it to ``options.out`` if that is given.

    Args:
        question: what the script asks, in one line.
        options: what :func:`parse` returned; paths and folders are left out of the record's settings.
        result: what was found: raw values, from which readers derive the rest.
        key: the part of the file that this record replaces, for a script that is run once for each of several cases.
        packages: further packages whose versions count.
    """
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "folder", "files")}
    record = {
        "question": question,
        "date": datetime.date.today().isoformat(),
        "settings": settings,
        "machine": machine(settings.get("device", "cpu")),
        "versions": versions(*packages),
        "commit": current_commit(),
        **result,
    }
    print(json.dumps(record, indent=1))
    if options.out is None:
        return
    content = record
    if key:
        before = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
        content = {**before, key: record}
    weight_files.write_atomically(options.out, (json.dumps(content, indent=1) + "\n").encode())


def machine(device: str = "cpu") -> dict:
    """Processor, cores in use, GPU (if ``device`` is "cuda"), memory in MiB, and load over the last minute."""
    return {
        "cpu": cpu_name(),
        "cores": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "memory_mebibytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "load": round(os.getloadavg()[0], 2),
    }


def cpu_name() -> str:
    """The processor's name as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(*packages: str) -> dict[str, str]:
    """Versions of the library, of torch, of Python and of the named packages."""
    found = {"rlnlib": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return found | {package: importlib.metadata.version(package) for package in packages}


def weights_used(kind: str, contrast: float, size: int) -> dict[str, str]:
    """Name and sha256 of a shipped weight file, so that a record says which weights it is of."""
    entries = {(e["kind"], e["contrast"], e["size"]): e["sha256"] for e in weight_files.catalogue()}
    return {weight_files.shipped_name(kind, contrast, size): entries[kind, contrast, size]}


def current_commit() -> str | None:
    """Short hash of the library's git checkout, with ``+`` if its files differ from it; None outside of a checkout."""
    if not (ROOT / ".git").exists():
        return None

    def git(*words):
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, timeout=20).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + ("+" if commit and git("status", "--porcelain", "rlnlib") else "") or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def described(data: Path) -> dict:
    """Read with what a data set was made, and hash its file."""
    with open(data, "rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
    return {**json.loads(dataset.read_parameters(data).to_json()), "sha256": digest.hexdigest()}


def joined(learning_curve: list[dict], rows: list[dict]) -> list[dict]:
    """Put the learning curve of a later stage behind that of the earlier ones.

    Args:
        learning_curve: of the earlier stages; may be empty.
        rows: of the later one, whose epochs and seconds begin at 0.

    Returns:
        One learning curve, in which epochs and seconds go on.
    """
    epochs, seconds = (learning_curve[-1]["epoch"], learning_curve[-1]["seconds"]) if learning_curve else (0, 0.0)
    return learning_curve + [
        {**row, "epoch": int(epochs + row["epoch"]), "seconds": round(seconds + row["seconds"], 1)} for row in rows
    ]


def record(
    kind: str,
    contrast: float,
    data: dict,
    stages,
    learning_curve,
    errors,
    worst_voxel: float,
    training_cells: int,
    device: str,
) -> dict:
    """Say everything about a trained network: how it came to be, and its errors on the test cells.

    Args:
        kind: a name of ``rlnlib.rln.KINDS``, or another.
        contrast: of the phases.
        data: that it was tested on, as :func:`described` says it.
        stages: (data, recipe) of each stage.
        learning_curve: of all stages.
        errors: MASE of each test cell.
        worst_voxel: largest error of any voxel, in percent of the macroscopic strain.
        training_cells: number of those of the last stage.
        device: what it was trained on.

    Returns:
        The record, as JSON gives it back: lists in place of tuples.
    """
    found = metrics.summary(errors)
    scores = {
        "mase_mean": found["mean"],
        "mase_deviation": found["deviation"],
        "standard_error": found["standard_error"],
        "interval": found["interval"],
        "worst_voxel": round(worst_voxel, 2),
    }
    about = {
        "kind": kind,
        "contrast": contrast,
        "data": data,
        "training_cells": training_cells,
        "recipe": [({} if made == data else {"data": made}) | config for made, config in stages],
        "epochs": len(learning_curve),
        "minutes": round(learning_curve[-1]["seconds"] / 60, 1),
        "device": device,
        "date": datetime.date.today().isoformat(),
        "library_version": __version__,
        "commit": current_commit(),
        "metrics": {"split": "test", "cells": found["cells"], **scores},
        "test_cells": found["cells"],
        **scores,
        "mase": errors,
    }
    return json.loads(json.dumps(about))


def header(about: dict) -> dict:
    """Take from a record what the header of a weight file holds."""
    names = ("kind", "contrast", "data", "training_cells", "recipe", "epochs", "minutes", "device", "date", "metrics")
    return {name: about[name] for name in names}


def significant(value: float) -> float:
    """A measured number to four digits, as records hold it."""
    return float(f"{value:.4g}")
