"""How far from our truth are the networks released with the paper, and ours for 31^3, on the paper's own test cells?

    python -m rlnlib.dataset make --profile paper --contrast 10 paper-10.h5        # and the same with 50
    RLN_REFERENCE_DATA=FOLDER python experiments/published.py --files paper-10.h5 paper-50.h5 \\
        --out data/results/published.json

Scores each network on the test part of the paper profile's data (8,192 cells of 31^3) with the mean of each cell
subtracted, and the released ones also with that of the batch of 32, as the released code does. The RLN-t is run for
more passes than it was trained for on the first cells. What is scored is kept in --folder block by block, so that the
same command goes on; after --max-minutes the record says how many of the cells were scored so far.
"""

import hashlib
import json
import math
import os
import time
from pathlib import Path

import torch

import rlnlib
from rlnlib import dataset, metrics, provenance
from rlnlib._files import write_atomically
from rlnlib.rln import RLN

#: File of each released network, by kind.
RELEASED = {"fln": "FLN_c{:g}.model", "rln-t": "RLN_t_c{:g}.model"}
BATCH = 32


def networks(contrast: float, released: Path):
    """(name, choice of the mean, model, about) of each network to score, the quickest first."""
    for choice in ("cell", "batch"):
        for kind, name in RELEASED.items():
            file = released / name.format(contrast)
            about = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            yield kind, choice, rlnlib.load_published(file, batch_mean=choice == "batch"), about
        if choice == "cell":
            weights = provenance.weights_used("rln", contrast, 31)
            yield "rln", choice, rlnlib.load_pretrained("rln", contrast, 31), {"weights": weights}


def scores(model: RLN, stiff: torch.Tensor, true: torch.Tensor, passes: int, path: Path, deadline: float) -> list[list]:
    """MASE of each cell after each pass, as far as the time allows. Shape: -> scored cells x passes."""
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    model.passes = passes
    for begin in range(len(done), len(stiff), BATCH):
        if time.monotonic() > deadline:
            break
        cells = slice(begin, begin + BATCH)
        size = BATCH if model.config["batch_mean"] else None
        fields = rlnlib.predict_strain(model, stiff[cells], batch_size=size, return_iterates=True)
        by_pass = torch.stack([rlnlib.mase(field, true[cells]) for field in fields], dim=1)  # (BATCH, passes)
        done += [[round(error, 3) for error in row] for row in by_pass.tolist()]
        write_atomically(path, json.dumps(done).encode())
    return done


def found(errors: list[list]) -> dict:
    """Summarize the errors after the last pass, and those of each. Shape: cells x passes -> ..."""
    values = torch.tensor(errors)
    by_pass = [metrics.summary(column, resamples=2) for column in values.T]
    brief = [{name: round(row[name], 3) for name in ("mean", "deviation")} for row in by_pass]
    return {**metrics.summary(values[:, -1]), "by_pass": brief, "mase": [row[-1] for row in errors]}


def main():
    options = provenance.parse(
        __doc__,
        files=("",),
        folder="runs/published",
        cells=8192,
        passes=10,
        more_passes_cells=512,
        max_minutes=math.inf,
    )
    released = Path(os.environ["RLN_REFERENCE_DATA"]) / "published"
    deadline, folder = time.monotonic() + 60 * options.max_minutes, Path(options.folder)
    del options.max_minutes  # it says nothing of the result
    for data in map(Path, options.files):
        parameters = provenance.described(data)
        contrast = parameters["contrast"]
        stiff, true = (field[: options.cells] for field in dataset.StrainDataset(data, "test").tensors())
        rows: dict[str, dict] = {}
        for kind, choice, model, about in networks(contrast, released):
            trained, name = model.passes, f"{kind}-{contrast:g}-{choice}"
            row = rows.setdefault(kind, {**about, "passes": trained})
            errors = scores(model, stiff, true, trained, folder / f"{name}.json", deadline)
            if len(errors) < 2:
                continue
            row[f"{choice}_mean"] = found(errors)
            if trained > 1 and "file" in about:
                few = slice(options.more_passes_cells)
                path = folder / f"{name}-more.json"
                more = scores(model, stiff[few], true[few], options.passes, path, deadline)
                if len(more) >= 2:
                    row[f"{choice}_mean"]["more_passes"] = {"cells": len(more), "by_pass": found(more)["by_pass"]}
            print(name, row[f"{choice}_mean"]["mean"], row[f"{choice}_mean"]["cells"], flush=True)
        result = {
            "contrast": contrast,
            "data": {**parameters, "split": "test", "cells": len(stiff)},
            "batch_size": {"cell_mean": 1, "batch_mean": BATCH},
            "networks": {kind: row for kind, row in rows.items() if "file" in row},
            "ours": {kind: row for kind, row in rows.items() if "weights" in row},
        }
        question = "How far from our truth are the networks released with the paper, and ours for 31^3?"
        provenance.write_record(question, options, result, key=f"{contrast:g}")


if __name__ == "__main__":
    main()
