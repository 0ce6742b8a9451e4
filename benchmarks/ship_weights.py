"""Ship what a training run made: score it on the test part of its data, write weights, header and records.

    python benchmarks/ship_weights.py --run runs/laptop/rln-10 --data runs/laptop/contrast-10.h5 \\
        --device "CPU, 1 thread"

Writes data/pretrained/NAME.safetensors and its line in the manifest, data/results/test-NAME.json and history-NAME.csv.
Several folders after --run are the stages of one training, each begun from the best weights of the one before; --after
names the weight file from which the first of them began. Its stages, minutes and learning curve are put in front.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import rlnlib
from rlnlib import checkpoints, dataset, training
from rlnlib.rln import KINDS


def ship(runs: list[Path], data: Path, device: str, after: Path | None = None) -> tuple[str, dict]:
    """Returns the name under which the network is shipped now, and its header.

    Raises ValueError for a network that is none of the paper's three, OSError for a missing or damaged file.
    """
    parameters = {**asdict(dataset.read_parameters(data)), "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
    stages: list[dict] = []
    history: list[dict] = []
    if after:
        before = checkpoints.read_header(after)
        name = checkpoints.shipped_name(before["kind"], before["contrast"], before["data"]["size"])
        stages = [{"data": before["data"], **stage} for stage in before["recipe"]]
        history = training.read_history(checkpoints.PRETRAINED.parent / "results", f"history-{name}.csv")
    for run in runs:
        model, config, rows = training.read_run(run)
        stages.append({"data": parameters, **asdict(config)})
        epochs, seconds = (history[-1]["epoch"], history[-1]["seconds"]) if history else (0, 0.0)
        history += [{**r, "epoch": int(epochs + r["epoch"]), "seconds": round(seconds + r["seconds"], 1)} for r in rows]
    for stage in stages:  # said once where it is the same
        if stage["data"] == parameters:
            del stage["data"]
    kinds = [kind for kind, options in KINDS.items() if options.items() <= model.config.items()]
    if not kinds:
        raise ValueError(f"{model.config} is none of {', '.join(KINDS)}: only these are shipped.")
    stiff, strain = dataset.StrainDataset(data, "test").tensors()
    errors = rlnlib.mase(rlnlib.predict_strain(model, stiff), strain)
    about = {
        "kind": kinds[0],
        "contrast": parameters["contrast"],
        "data": parameters,
        "training_cells": len(dataset.StrainDataset(data, "train")),
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
        checkpoints.save_weights(Path(folder) / "weights", model, **about)
        name = checkpoints.ship(Path(folder) / "weights")
    results = checkpoints.PRETRAINED.parent / "results"
    scores = {**about, "mase": [round(error, 4) for error in errors.tolist()]}
    checkpoints.write_atomically(results / f"test-{name}.json", (json.dumps(scores) + "\n").encode())
    training.write_history(results / f"history-{name}.csv", history)
    return name, about


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="folders of training.train, in their order")
    parser.add_argument("--data", type=Path, required=True, help="the data set of the last of them")
    parser.add_argument("--device", required=True, help='what it was trained on, such as "CPU, 1 thread"')
    parser.add_argument("--after", type=Path, help="the weight file with which the first run began")
    options = parser.parse_args()
    name, about = ship(options.run, options.data, options.device, options.after)
    metrics = about["metrics"]
    print(f"{name}: {metrics['mase_mean']:.3f} ± {metrics['mase_deviation']:.3f} % on {metrics['cells']} test cells")


if __name__ == "__main__":
    main()
