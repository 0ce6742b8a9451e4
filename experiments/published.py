"""How far from our truth are the networks released with the paper, on the paper's own kind of test cells?

    python -m rlnlib.dataset make --profile paper --contrast 10 paper-10.h5        # and the same with 50
    RLN_REFERENCE_DATA=FOLDER python experiments/published.py --files paper-10.h5 paper-50.h5 \\
        --out data/results/published.json

Scores each network on the test part of the paper profile's data (8,192 cells of 31^3) with the mean of each cell
subtracted; on the first --few cells also with that of the batch of 32, as the released code does, and the RLN-t for
more passes than it was trained for. The cells come in an order drawn from --seed, and every network has the same ones,
so that those scored so far are a random part of the whole. --folder keeps block by block what is scored, and the same
command goes on; after --max-minutes the record says how many of the cells it speaks of.
Convolutions are in bfloat16 where that is fast; the record says what that changes on the first block.
"""

import hashlib
import json
import math
import os
import time
from pathlib import Path

import torch

import rlnlib
from rlnlib import dataset, metrics, provenance, training
from rlnlib._files import write_atomically
from rlnlib.rln import RLN

#: File of each released network, by kind.
RELEASED = {"fln": "FLN_c{:g}.model", "rln-t": "RLN_t_c{:g}.model"}
BATCH = 32
PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}


def errors_by_pass(model: RLN, stiff, true, passes: int, precision: str) -> torch.Tensor:
    """MASE of each cell after each pass. Shape: (B, N, N, N) twice -> (B, passes)."""
    model.passes = passes if model.config["tied"] else model.passes
    size = BATCH if model.config["batch_mean"] else None
    dtype = PRECISIONS[precision]
    fields = rlnlib.predict_strain(model, stiff, batch_size=size, dtype=dtype, return_iterates=True)
    return torch.stack([rlnlib.mase(field, true) for field in fields], dim=1)


def score_block(data: Path, order: list[int], begin: int, options, precision: str) -> dict:
    """Errors of every network on one block of cells. Shape: -> by kind and mean, (cells, passes)."""
    contrast = dataset.read_parameters(data).contrast
    few, folder = begin < options.few, Path(os.environ["RLN_REFERENCE_DATA"]) / "published"
    items = dataset.StrainDataset(data, "test", in_memory=False).__getitems__(order[begin : begin + BATCH])
    stiff, true = (torch.stack(field) for field in zip(*items, strict=True))
    found = {}
    for kind, name in RELEASED.items():
        for choice in ("cell", "batch") if few else ("cell",):
            model = rlnlib.load_published(folder / name.format(contrast), batch_mean=choice == "batch")
            passes = options.passes if few else model.passes
            by_pass = errors_by_pass(model, stiff, true, passes, precision)
            found[f"{kind} {choice}"] = [[round(error, 3) for error in row] for row in by_pass.tolist()]
            if begin == 0 and precision != "32-true":
                found[f"{kind} {choice} exact"] = errors_by_pass(model, stiff, true, passes, "32-true").tolist()
    return found


def brief(rows: list[list[float]]) -> list[dict]:
    """Mean and deviation after each pass. Shape: cells x passes -> passes."""
    summaries = [metrics.summary(column, resamples=2) for column in torch.tensor(rows).T]
    return [{name: round(row[name], 3) for name in ("mean", "deviation")} for row in summaries]


def summarized(blocks: list[dict], kind: str, trained: int) -> dict:
    """What the blocks say of a network that was trained for so many passes."""

    def of(choice: str) -> list[list[float]]:
        return [row for block in blocks for row in block.get(f"{kind} {choice}", [])]

    found = {}
    for choice in ("cell", "batch"):
        rows = of(choice)
        last = [row[trained - 1] for row in rows]
        found[f"{choice}_mean"] = {
            **metrics.summary(last),
            "by_pass": brief([row[:trained] for row in rows]),
            "mase": last,
        }
        if longer := [row for row in rows if len(row) > trained]:
            found[f"{choice}_mean"]["more_passes"] = {"cells": len(longer), "by_pass": brief(longer)}
    if exact := of("cell exact"):
        apart = torch.tensor([row[trained - 1] for row in of("cell")][: len(exact)]) - torch.tensor(
            [row[trained - 1] for row in exact]
        )
        found["drift"] = {
            "cells": len(exact),
            "mean": round(float(apart.mean()), 4),
            "largest": round(float(apart.abs().max()), 4),
        }
    return found


def main():
    options = provenance.parse(
        __doc__,
        files=("",),
        folder="runs/published",
        cells=8192,
        passes=10,
        few=512,
        seed=0,
        threads=0,
        max_minutes=math.inf,
    )
    torch.set_num_threads(options.threads or torch.get_num_threads())
    released = Path(os.environ["RLN_REFERENCE_DATA"]) / "published"
    deadline, folder = time.monotonic() + 60 * options.max_minutes, Path(options.folder)
    precision = training.fast_precision("cpu")
    for name in ("max_minutes", "threads"):
        delattr(options, name)  # they say nothing of the result
    sets = {dataset.read_parameters(path).contrast: path for path in map(Path, options.files)}
    blocks: dict[float, list[dict]] = {contrast: [] for contrast in sets}
    generator = torch.Generator().manual_seed(options.seed)
    all_cells = len(dataset.StrainDataset(next(iter(sets.values())), "test", in_memory=False))
    order = torch.randperm(all_cells, generator=generator)[: options.cells].tolist()
    for begin in range(0, len(order), BATCH):
        for contrast, data in sets.items():
            path = folder / f"{contrast:g}-{begin}.json"
            if not path.exists() and time.monotonic() < deadline:
                write_atomically(path, json.dumps(score_block(data, order, begin, options, precision)).encode())
            if path.exists():
                blocks[contrast].append(json.loads(path.read_text(encoding="utf-8")))
    for contrast, data in sets.items():
        networks = {}
        for kind, name in RELEASED.items() if blocks[contrast] else ():
            file = released / name.format(contrast)
            about = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            passes = rlnlib.load_published(file).passes
            networks[kind] = {**about, "passes": passes, **summarized(blocks[contrast], kind, passes)}
            print(contrast, kind, networks[kind]["cell_mean"]["mean"], flush=True)
        cells = min(len(order), BATCH * len(blocks[contrast]))
        result = {
            "contrast": contrast,
            "data": {**provenance.described(data), "split": "test", "cells": cells, "of": all_cells},
            "precision": precision,
            "batch_size": {"cell_mean": 1, "batch_mean": BATCH},
            "networks": networks,
        }
        question = "How far from our truth are the networks released with the paper?"
        provenance.write_record(question, options, result, key=f"{contrast:g}")


if __name__ == "__main__":
    main()
