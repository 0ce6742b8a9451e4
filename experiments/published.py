"""How far from our truth are the networks released with the paper, on the paper's own kind of test cells?

    RLN_REFERENCE_DATA=FOLDER python experiments/published.py --out data/results/published.json

Scores each network on the test part of the paper profile's data (8,192 cells of 31^3, solved here), with the mean of
each cell subtracted. On the first --few cells also with that of the batch of 32, as the released code does, and the
RLN-t for more passes than it was trained for. The cells come in an order drawn from --seed, and every network has the
same ones, so that those scored so far are a random part of the whole. --folder keeps block by block what is scored, and
the same command goes on; after --max-minutes the record says how many of the cells it speaks of. As long as cells are
left it also holds the blocks, so that the command goes on from the record alone, on any machine.
Convolutions are in --precision, by default in bfloat16 where that is fast; the record says what that changes on the
first block.
"""

import hashlib
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch

import rlnlib
from measured import draw_test_cells
from rlnlib import dataset, metrics, provenance, training
from rlnlib._files import write_atomically
from rlnlib.dataset import making
from rlnlib.rln import RLN

#: File of each released network, by kind.
RELEASED = {"fln": "FLN_c{:g}.model", "rln-t": "RLN_t_c{:g}.model"}
BATCH = 32
PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}


def errors_by_pass(model: RLN, stiff, true, passes: int, precision: str, device: str) -> torch.Tensor:
    """MASE of each cell after each pass. Shape: (B, N, N, N) twice -> (B, passes)."""
    model.passes = passes
    size = BATCH if model.config["batch_mean"] else None
    dtype = PRECISIONS[precision]
    fields = rlnlib.predict_strain(model, stiff, batch_size=size, dtype=dtype, device=device, return_iterates=True)
    return torch.stack([rlnlib.mase(field, true) for field in fields], dim=1)


def score_block(design: dataset.Parameters, order: np.ndarray, begin: int, options, precision: str) -> dict:
    """Errors of every network on one block of cells. Shape: -> by kind and mean, (cells, passes)."""
    few, records = begin < options.few, order[begin : begin + BATCH]
    contrast, folder = design.contrast, Path(os.environ["RLN_REFERENCE_DATA"]) / "published"
    solved = making.solve(design, records, torch.device(options.device))
    stiff, true = (torch.from_numpy(solved[name]) for name in ("stiff", "strain_xx"))
    found = {}
    for kind, name in RELEASED.items():
        for choice in ("cell", "batch") if few else ("cell",):
            model = rlnlib.load_published(folder / name.format(contrast), batch_mean=choice == "batch")
            trained = model.passes
            passes = options.passes if few and trained > 1 else trained
            rows = errors_by_pass(model, stiff, true, passes, precision, options.device).tolist()
            found[f"{kind} {choice}"] = [[round(error, 3) for error in row] for row in rows]
            if begin == 0 and choice == "cell" and precision != "32-true":
                exact = errors_by_pass(model, stiff, true, trained, "32-true", options.device)
                found[f"{kind} exact"] = exact.tolist()
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
    if exact := [row[-1] for row in of("exact")]:
        apart = torch.tensor([row[trained - 1] for row in of("cell")[: len(exact)]]) - torch.tensor(exact)
        mean, largest = round(float(apart.mean()), 4), round(float(apart.abs().max()), 4)
        found["drift"] = {"cells": len(exact), "mean": mean, "largest": largest}
    return found


def blocks_of(record: Path | None, contrast: float, precision: str, options) -> list[dict]:
    """The blocks of an unfinished record that was made in the same way; none of another one."""
    held = json.loads(record.read_text(encoding="utf-8")) if record and record.exists() else {}
    held = held.get(f"{contrast:g}", {})
    same = held.get("precision") == precision and all(
        held["settings"].get(name) == getattr(options, name) for name in ("cells", "passes", "few", "seed")
    )
    return held.get("blocks", []) if same else []


def main():
    options = provenance.parse(
        __doc__,
        contrasts=(10.0, 50.0),
        folder="runs/published",
        cells=8192,
        passes=10,
        few=64,
        seed=0,
        threads=0,
        precision="",
        max_minutes=math.inf,
    )
    torch.set_num_threads(options.threads or torch.get_num_threads())
    released = Path(os.environ["RLN_REFERENCE_DATA"]) / "published"
    deadline, folder = time.monotonic() + 60 * options.max_minutes, Path(options.folder)
    precision = options.precision or training.fast_precision(options.device)
    for name in ("max_minutes", "threads", "precision"):
        delattr(options, name)  # they say nothing of the result
    designs = [dataset.Parameters(**dataset.PROFILES["paper"], contrast=contrast) for contrast in options.contrasts]
    order, all_of_them = draw_test_cells(designs[0], options.cells, options.seed)
    blocks = {contrast: blocks_of(options.out, contrast, precision, options) for contrast in options.contrasts}
    for begin in range(0, len(order), BATCH):
        for design in designs:
            if begin // BATCH < len(blocks[design.contrast]):
                continue
            path = folder / f"{design.contrast:g}-{begin}.json"
            if not path.exists() and time.monotonic() < deadline:
                found = score_block(design, order, begin, options, precision)
                write_atomically(path, json.dumps(found).encode())
                print(design.contrast, begin, flush=True)
            if path.exists():
                blocks[design.contrast].append(json.loads(path.read_text(encoding="utf-8")))
    for design in designs:
        contrast, networks = design.contrast, {}
        for kind, name in RELEASED.items() if blocks[contrast] else ():
            file = released / name.format(contrast)
            about = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            passes = rlnlib.load_published(file).passes
            networks[kind] = {**about, "passes": passes, **summarized(blocks[contrast], kind, passes)}
            print(contrast, kind, networks[kind]["cell_mean"]["mean"], flush=True)
        cells = min(len(order), BATCH * len(blocks[contrast]))
        result = {
            "contrast": contrast,
            "data": {**json.loads(design.to_json()), "split": "test", "cells": cells, "of": all_of_them},
            "precision": precision,
            "batch_size": {"cell_mean": 1, "batch_mean": BATCH},
            "networks": networks,
        }
        if cells < len(order):
            result["blocks"] = blocks[contrast]
        question = "How far from our truth are the networks released with the paper?"
        provenance.write_record(question, options, result, key=f"{contrast:g}")


if __name__ == "__main__":
    main()
