"""How far from our truth are the networks released with the paper, beside its Table 1?

    RLN_REFERENCE_DATA=FOLDER python experiments/published.py --contrast 10 --out data/results/published.json

The record has a key for each contrast, of which a run replaces its own. Scores each network on fresh cells of the
paper's default set, after every pass, with the mean of each cell subtracted and with that of the whole batch, as the
released code does. The RLN-t is run for more passes than it was trained for.
A batch of one has only one mean: scored one at a time, both choices are the same.
"""

import hashlib
import os
from pathlib import Path

import torch

import rlnlib
from rlnlib import provenance
from rlnlib.rln import phase_indicators

FILES = ("FLN_c{:g}.model", "RLN_t_c{:g}.model")


@torch.no_grad()
def errors_by_pass(model, cells, true, batch_size):
    """MASE of every cell after each pass. Shape: (passes, B)."""
    parts = []
    for batch, target in zip(cells.split(batch_size), true.split(batch_size), strict=True):
        iterates = model(phase_indicators(batch), return_iterates=True)
        parts.append(torch.stack([rlnlib.mase(y[:, 0], target) for y in iterates]))
    return torch.cat(parts, dim=1)


def summary(errors):
    mean, deviation = float(errors.mean()), float(errors.std())
    return {"mean": round(mean, 3), "deviation": round(deviation, 3)}


def main():
    options = provenance.parse(__doc__, contrast=10.0, cells=500, size=31, passes=10, batch_size=32, seed=500)
    folder = Path(os.environ["RLN_REFERENCE_DATA"]) / "published"
    stiff = torch.from_numpy(rlnlib.generate_cells(options.cells, size=options.size, seed=options.seed))
    solved = [
        rlnlib.solve_strain(part, options.contrast, rtol=1e-4, dtype=torch.float32).strain[:, 0]
        for part in stiff.split(20)
    ]
    true = torch.cat(solved).float()
    networks = {}
    for file in (folder / name.format(options.contrast) for name in FILES):
        found = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for choice, batch_size in (("cell", 1), ("batch", options.batch_size)):
            model = rlnlib.load_published(file, batch_mean=choice == "batch")
            trained = model.passes
            if trained > 1 and model.config["tied"]:
                model.passes = max(options.passes, trained)
            errors = errors_by_pass(model, stiff, true, batch_size)
            found[f"{choice}_mean"] = {
                **summary(errors[trained - 1]),
                "by_pass": [summary(row) for row in errors],
                "mase": [round(float(e), 3) for e in errors[trained - 1]],
            }
        kind = "fln" if trained == 1 else "rln-t" if model.config["tied"] else "rln"
        networks[kind] = found
        print(file.name, found["cell_mean"]["by_pass"], found["batch_mean"]["by_pass"], flush=True)
    result = {
        "contrast": options.contrast,
        "data": {"cells": options.cells, "size": options.size, "grain_size": [1, 10], "stiff_fraction": [0.0, 1.0]},
        "truth": "bbar, rtol 1e-4",
        "batch_size": {"cell_mean": 1, "batch_mean": options.batch_size},
        "networks": networks,
    }
    question = "How far from our truth are the networks released with the paper?"
    provenance.write_record(question, options, result, key=f"{options.contrast:g}")


if __name__ == "__main__":
    main()
