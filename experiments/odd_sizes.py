"""What does a seam cost? Networks trained on an even size, on cells of an odd one.

    python experiments/odd_sizes.py --out data/results/odd_sizes.json

Shipped weights for cells of 16^3 on cells of 31^3: everything padded to 36 as the released networks do ("vnet"), and
only the half resolution continued around the cell ("vnet-periodic"); beside them other cells of 32^3, which need
neither.
"""

import time

import torch

import rlnlib
from rlnlib import metrics, provenance
from rlnlib.rln import KINDS


def main():
    options = provenance.parse(__doc__, cells=32, seed=4242)
    torch.set_num_threads(1)
    sets = {
        size: torch.from_numpy(rlnlib.generate_cells(options.cells, size=size, seed=options.seed)) for size in (31, 32)
    }
    rows = []
    for contrast in (10.0, 50.0):
        true = {size: rlnlib.solve_strain(c, contrast, rtol=1e-4).strain[:, 0] for size, c in sets.items()}
        for kind in KINDS:
            shipped = rlnlib.load_pretrained(kind, contrast)
            for proximal, size in (("vnet", 31), ("vnet-periodic", 31), ("vnet", 32)):
                model = shipped.with_options(proximal=proximal)
                started = time.process_time()
                predicted = rlnlib.predict_strain(model, sets[size], batch_size=1)
                seconds = (time.process_time() - started) / options.cells
                errors = rlnlib.mase(predicted, true[size])
                row = {"kind": kind, "contrast": contrast, "proximal": proximal, "size": size}
                rows.append({**row, **metrics.summary(errors), "cpu_seconds": round(seconds, 3)})
                print(rows[-1], flush=True)
    result = {"cells": options.cells, "seed": options.seed, "rows": rows}
    question = "What a seam costs: networks trained on an even size, on cells of an odd one"
    provenance.write_record(question, options, result)


if __name__ == "__main__":
    main()
