"""Cells -> strains -> six networks -> Table 1: the paper's experiment as one command that can be cut off anywhere.

    python -m rlnlib.reproduce --profile laptop --out runs/laptop
    python -m rlnlib.reproduce --profile paper --max-minutes 9   # again and again, on a lent GPU
    torchrun --nproc-per-node 4 -m rlnlib.reproduce --profile paper

The networks are trained one after the other, the hardest first. What stands in the folder is not made again, and the
last line says what is left and for how long. ``results.json`` holds the table: mean and deviation of the MASE (eq. 29)
over the test split, and the 95 % bootstrap interval of the mean.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import bootstrap

from rlnlib import dataset, training, weight_files
from rlnlib._version import __version__
from rlnlib.metrics import mase
from rlnlib.rln import KINDS, RLN, predict_strain
from rlnlib.training import TrainingConfig

CONTRASTS = (50.0, 10.0)
#: The most telling network first, should the time run out.
ORDER = tuple((kind, contrast) for kind in ("rln", "rln-t", "fln") for contrast in CONTRASTS)


@dataclass(frozen=True)
class Profile:
    """How much: the cells, as in ``dataset.PROFILES``, and the recipe; ``max_minutes`` of each kind of network."""

    n: int
    size: int
    repeats: int
    grain_size: tuple[int, int]
    config: TrainingConfig
    max_minutes: dict[str, float | None]


#: "ci" shows that the command works; "laptop" is a real, smaller table for two cores; "paper" is section 4.
PROFILES = {
    "ci": Profile(
        **dataset.PROFILES["ci"],
        config=TrainingConfig(epochs=2, batch_size=8, loss="rmse", augment=True),
        max_minutes=dict.fromkeys(KINDS),
    ),
    "laptop": Profile(
        **dataset.PROFILES["laptop"],
        config=TrainingConfig(epochs=60, batch_size=16, loss="rmse", augment=True),
        max_minutes={"fln": 30.0, "rln-t": 90.0, "rln": 90.0},
    ),
    "paper": Profile(
        **dataset.PROFILES["paper"],
        config=TrainingConfig(epochs=60, batch_size=32, loss="rmse"),
        max_minutes=dict.fromkeys(KINDS),
    ),
}


def reproduce(profile: Profile, out, device: str = "auto", max_minutes: float | None = None, progress=False) -> dict:
    """Do what is left of a profile in the folder ``out``; returns the results, also of the networks done before.

    Shape: -> {"rln-50": {"mase_mean", "mase_deviation", "interval", ...}, ...}, with "left" where ``max_minutes`` ran
    out: the names of the unfinished networks and the minutes that the one in training still needs.
    Raises OSError for a folder that was made by another profile, or a place that cannot be written.
    """
    out, deadline = Path(out), None if max_minutes is None else time.monotonic() + 60 * max_minutes
    precision = training.fast_precision(device)
    results: dict = {}
    for number, (kind, contrast) in enumerate(ORDER):
        name = f"{kind}-{contrast:g}"
        record = out / f"{name}.json"
        if record.exists():
            results[name] = json.loads(record.read_text())
            continue
        # The solver spreads over the cores of one process; it takes minutes where training takes hours.
        data = dataset.make_dataset(
            out / f"contrast-{contrast:g}.h5",
            profile.n,
            size=profile.size,
            repeats=profile.repeats,
            grain_size=profile.grain_size,
            contrast=contrast,
            device=None if device == "cpu" or not torch.cuda.is_available() else "cuda",
            progress=progress,
        )
        sets = {split: dataset.StrainDataset(data, split).tensors() for split in dataset.SPLITS}
        minutes = profile.max_minutes[kind]
        config = replace(profile.config, max_minutes=minutes, precision=precision)
        torch.manual_seed(config.seed)
        model = RLN(**KINDS[kind])
        left = None if deadline is None else max(0.0, (deadline - time.monotonic()) / 60)
        try:
            history = training.train(
                model, sets["train"], sets["validation"], config, out / name, device, progress, slice_minutes=left
            )
        except training.Unfinished as pause:
            remaining = pause.seconds / pause.done * (1 - pause.done) / 60 if pause.done else math.nan
            results["left"] = {"networks": [f"{k}-{c:g}" for k, c in ORDER[number:]], "minutes_of_first": remaining}
            return results
        results[name] = _evaluate(model, sets["test"], config, history, data, device)
        if int(os.environ.get("RANK", 0)) == 0:
            found = results[name]
            about = {key: found[key] for key in ("data", "epochs", "minutes", "device")}
            metrics = {key: found[key] for key in ("mase_mean", "mase_deviation")}
            weight_files.save_weights(
                out / f"{name}.safetensors",
                model,
                kind=kind,
                contrast=contrast,
                training_cells=len(sets["train"][0]),
                recipe=[found["recipe"]],
                metrics={"split": "test", "cells": found["test_cells"], **metrics},
                **about,
            )
            weight_files.write_atomically(record, json.dumps(results[name]).encode())
    return results


def _evaluate(model, test_set, config, history, data, device) -> dict:
    stiff, strain = test_set
    target = "cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda"
    errors = mase(predict_strain(model, stiff, config.batch_size, device=target), strain).numpy()
    interval = bootstrap((errors,), np.mean, n_resamples=2000, rng=np.random.default_rng(0)).confidence_interval
    return {
        "mase_mean": round(float(errors.mean()), 4),
        "mase_deviation": round(float(errors.std()), 4),
        "interval": [round(float(bound), 4) for bound in interval],
        "test_cells": len(errors),
        "epochs": len(history),
        "minutes": round(history[-1]["seconds"] / 60, 1),
        "recipe": asdict(config),
        "data": {**asdict(dataset.read_parameters(data)), "sha256": hashlib.sha256(data.read_bytes()).hexdigest()},
        "device": torch.cuda.get_device_name() if target == "cuda" else f"{platform.machine()} CPU",
        "library_version": __version__,
        "mase": errors.round(4).tolist(),
    }


def table(results: dict) -> str:
    """The results as Table 1 of the paper, in plain text."""
    lines = ["            MASE (mean +- deviation)   95 % interval of the mean   test cells"]
    for contrast in reversed(CONTRASTS):
        lines.append(f"contrast {contrast:g}")
        for kind in KINDS:
            if found := results.get(f"{kind}-{contrast:g}"):
                low, high = found["interval"]
                shown = f"{found['mase_mean']:.2f} % +- {found['mase_deviation']:.2f} %"
                lines.append(f"  {kind:<8}  {shown:<25}  {low:.2f} to {high:.2f} %{found['test_cells']:>19}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rlnlib.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=PROFILES, required=True)
    parser.add_argument("--max-minutes", type=float, help="stop cleanly after this time; run again to go on")
    parser.add_argument("--out", type=Path, help="folder to work in (default: runs/PROFILE)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / options.profile
    try:
        out.mkdir(parents=True, exist_ok=True)
        results = reproduce(PROFILES[options.profile], out, options.device, options.max_minutes, progress=True)
        left = results.pop("left", None)
        if int(os.environ.get("RANK", 0)) == 0:
            content = {"profile": options.profile, "networks": results}
            weight_files.write_atomically(out / "results.json", (json.dumps(content, indent=1) + "\n").encode())
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(results))
    if left:
        minutes = left["minutes_of_first"]
        needs = "has not begun" if math.isnan(minutes) else f"still needs about {minutes:.0f} minutes"
        print(f"Left: {', '.join(left['networks'])}; the first {needs}. Run the same command again to go on.")
    else:
        print(f"Complete: {out / 'results.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
