"""How much does a line of Table 1 depend on the seed of the training? One network of the book's table, several times.

    python experiments/seeds.py --folder runs/seeds --out data/results/seeds.json

The record has a key for each network, of which a run replaces its own. Same data, recipe and number of epochs as the
first stage of the shipped weights; the seed draws the first weights, the order of the cells and their symmetry copies.
The shipped weights fell along the cosine by the clock, these by epochs, so that they come out alike on any machine.
A run that was cut off goes on from its folder.
"""

from dataclasses import replace
from pathlib import Path

import torch

import rlnlib
from rlnlib import dataset, metrics, provenance, training, weight_files
from rlnlib.rln import KINDS
from rlnlib.runs import train


def main():
    options = provenance.parse(__doc__, kind="fln", contrast=10.0, epochs=20, seeds=(0, 1, 2), folder="runs/seeds")
    torch.set_num_threads(1)
    folder = Path(options.folder)
    about = weight_files.pretrained_header(options.kind, options.contrast)
    parameters = {name: value for name, value in about["data"].items() if name != "sha256"}
    data = dataset.make_dataset(folder / f"contrast-{options.contrast:g}.h5", **parameters)
    sets = {split: dataset.StrainDataset(data, split).tensors() for split in dataset.SPLITS}
    stage = {name: value for name, value in about["recipe"][0].items() if name != "data"}  # is there if others follow
    recipe = replace(training.TrainingConfig(**stage), epochs=options.epochs, max_minutes=None)
    runs = []
    for seed in options.seeds:
        torch.manual_seed(seed)
        model = rlnlib.RLN(**KINDS[options.kind])
        config = replace(recipe, seed=seed)
        run = folder / f"{options.kind}-{options.contrast:g}-{seed}"
        curve = train(model, sets["train"], sets["validation"], config, run, device="cpu", progress=True)
        errors = rlnlib.mase(rlnlib.predict_strain(model, sets["test"][0]), sets["test"][1])
        found = metrics.summary(errors)
        runs.append(
            {
                "seed": seed,
                "mase_mean": found["mean"],
                "mase_deviation": found["deviation"],
                "validation_mase": [round(row["validation_mase"], 4) for row in curve],
            }
        )
        ran = {**stage, "epochs": options.epochs, "max_minutes": None}
        result = {"data": about["data"], "recipe": ran, "test_cells": len(errors), "runs": runs}
        question = "How much does a line of Table 1 depend on the seed of the training?"
        provenance.write_record(question, options, result, key=f"{options.kind}-{options.contrast:g}")


if __name__ == "__main__":
    main()
