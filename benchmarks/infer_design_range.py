"""Which range of grain sizes were the released networks trained on? They score best on cells like their own.

    RLN_REFERENCE_DATA=FOLDER python benchmarks/infer_design_range.py --out data/results/design_range.json

Scores the released FLN and RLN-t of contrast 10 on fresh cells of several ranges, each prediction with the mean of its
own cell, against the B-bar solution.
"""

import argparse
import json
import os
import platform
from pathlib import Path

import torch

import rlnlib
from rlnlib.checkpoints import write_atomically

RANGES = ((1, 5), (1, 8), (1, 10), (1, 13), (1, 20), (1, 31), (4, 10))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--size", type=int, default=31)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    folder = Path(os.environ["RLN_REFERENCE_DATA"]) / "published"
    networks = {
        "fln": rlnlib.load_published(folder / "FLN_c10.model"),
        "rln-t": rlnlib.load_published(folder / "RLN_t_c10.model"),
    }
    rows = []
    for grain_size in RANGES:
        cells = rlnlib.generate_cells(options.cells, size=options.size, grain_size=grain_size, seed=123)
        true = rlnlib.solve_strain(cells, 10.0, rtol=1e-4, dtype=torch.float32).strain[:, 0]
        row = {"grain_size": grain_size}
        for kind, network in networks.items():
            errors = rlnlib.mase(rlnlib.predict_strain(network, cells, batch_size=4), true)
            row[kind] = {
                "mean": round(float(errors.mean()), 3),
                "deviation": round(float(errors.std()), 3),
                "standard_error": round(float(errors.std()) / len(errors) ** 0.5, 3),
            }
        rows.append(row)
        print(row, flush=True)
    result = {
        "cells": options.cells,
        "size": options.size,
        "contrast": 10.0,
        "seed": 123,
        "ranges": rows,
        "versions": {"rlnlib": rlnlib.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    write_atomically(options.out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
