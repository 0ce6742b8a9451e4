"""Ship what a training run made: score it on the test part of its data, write weights, header and records.

    python experiments/ship.py --run runs/laptop/rln-10 --data runs/laptop/contrast-10.h5 \\
        --device "CPU, 1 thread"

Writes data/pretrained/NAME.safetensors and its line in the manifest, beside it NAME.test.json and NAME.history.csv.
Several folders after --run are the stages of one training, each begun from the best weights of the one before; --after
names the weight file from which the first of them began. Its stages, minutes and learning curve are put in front. If
the runs were trained on all cells of another data set, --train-data names it; none of them may be a test cell.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

import rlnlib
from rlnlib import dataset, training, weight_files
from rlnlib.rln import KINDS


def described(data: Path) -> dict:
    """With what a data set was made, and its hash."""
    return {**asdict(dataset.read_parameters(data)), "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}


def training_cells(data: Path, whole: bool) -> torch.Tensor:
    """The training part of a data set, or all of it. Shape: -> (n, N, N, N) bool."""
    return dataset.StrainDataset(data, None if whole else "train").tensors()[0]


def known(cells: torch.Tensor, others: torch.Tensor) -> int:
    """How many of the cells are among the others; homogeneous cells, of which there are only two, do not count."""
    mixed = [{cell.numpy().tobytes() for cell in part if cell.any() and not cell.all()} for part in (cells, others)]
    return len(mixed[0] & mixed[1])


def ship(
    runs: list[Path], data: Path, device: str, after: Path | None = None, train_data: Path | None = None
) -> tuple[str, dict]:
    """Returns the name under which the network is shipped now, and its header.

    Raises ValueError for a network that is none of the paper's three, or trained on a test cell, OSError for a missing
    or damaged file.
    """
    parameters = described(data)
    trained_on = described(train_data) if train_data else parameters
    stages: list[dict] = []
    history: list[dict] = []
    if after:
        before = weight_files.read_header(after)
        name = weight_files.shipped_name(before["kind"], before["contrast"], before["data"]["size"])
        stages = [{"data": before["data"], **stage} for stage in before["recipe"]]
        history = training.read_history(weight_files.PRETRAINED, f"{name}.history.csv")
    for run in runs:
        model, config, rows = training.read_run(run)
        stages.append({"data": trained_on, **asdict(config)})
        epochs, seconds = (history[-1]["epoch"], history[-1]["seconds"]) if history else (0, 0.0)
        history += [{**r, "epoch": int(epochs + r["epoch"]), "seconds": round(seconds + r["seconds"], 1)} for r in rows]
    for stage in stages:  # said once where it is the same
        if stage["data"] == parameters:
            del stage["data"]
    kinds = [kind for kind, options in KINDS.items() if options.items() <= model.config.items()]
    if not kinds:
        raise ValueError(f"{model.config} is none of {', '.join(KINDS)}: only these are shipped.")
    stiff, strain = dataset.StrainDataset(data, "test").tensors()
    cells = training_cells(train_data or data, whole=train_data is not None)
    if count := known(stiff, cells):
        raise ValueError(f"{count} of the {len(stiff)} test cells were trained on: test with another data set.")
    errors = rlnlib.mase(rlnlib.predict_strain(model, stiff), strain)
    about = {
        "kind": kinds[0],
        "contrast": parameters["contrast"],
        "data": parameters,
        "training_cells": len(cells),
        "recipe": stages,
        "minutes": round(history[-1]["seconds"] / 60, 1),
        "epochs": len(history),
        "device": device,
        "metrics": {
            "split": "test",
            "cells": len(errors),
            "mase_mean": round(float(errors.mean()), 4),
            "mase_deviation": round(float(errors.std()), 4),
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        weight_files.save_weights(Path(folder) / "weights", model, **about)
        name = weight_files.ship(Path(folder) / "weights")
    scores = {**about, "mase": [round(error, 4) for error in errors.tolist()]}
    weight_files.write_atomically(weight_files.PRETRAINED / f"{name}.test.json", (json.dumps(scores) + "\n").encode())
    training.write_history(weight_files.PRETRAINED / f"{name}.history.csv", history)
    return name, about


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="folders of training.train, in their order")
    parser.add_argument("--data", type=Path, required=True, help="the data set of the last of them")
    parser.add_argument("--device", required=True, help='what it was trained on, such as "CPU, 1 thread"')
    parser.add_argument("--after", type=Path, help="the weight file with which the first run began")
    parser.add_argument("--train-data", type=Path, help="another data set, of which all cells were trained on")
    options = parser.parse_args()
    name, about = ship(options.run, options.data, options.device, options.after, options.train_data)
    metrics = about["metrics"]
    print(f"{name}: {metrics['mase_mean']:.3f} ± {metrics['mase_deviation']:.3f} % on {metrics['cells']} test cells")


if __name__ == "__main__":
    main()
