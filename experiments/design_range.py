"""Which ranges were the released networks trained on? They score best on cells like their own.

    RLN_REFERENCE_DATA=FOLDER python experiments/design_range.py --out data/results/design_range.json

Scores the released FLN and RLN-t of contrast 10 on fresh cells of several ranges of grain sizes and of stiff fractions,
each prediction with the mean of its own cell, against the B-bar solution. All ranges share one design and one noise, so
the differences between them are known better than the means. Convolutions are in bfloat16 where that is fast; what that
changes in these networks stands in ``data/results/published.json``.
"""

import os
from pathlib import Path

import torch

import rlnlib
from rlnlib import metrics, provenance, training

ALL = (0.0, 1.0)
DTYPE = torch.bfloat16 if training.fast_precision("cpu") == "bf16-mixed" else torch.float32
#: (grain sizes, stiff fractions)
RANGES = (
    *(((1, largest), ALL) for largest in (5, 8, 10, 13, 20, 31)),
    ((4, 10), ALL),
    ((1, 10), (0.1, 0.9)),
    ((1, 10), (0.25, 0.75)),
    ((1, 13), (0.25, 0.75)),
)


def score(network, cells, true) -> dict[str, float]:
    errors = rlnlib.mase(rlnlib.predict_strain(network, cells, batch_size=4, dtype=DTYPE), true)
    return metrics.summary(errors)


def main():
    options = provenance.parse(__doc__, cells=100, size=31, seed=123)
    folder = Path(os.environ["RLN_REFERENCE_DATA"]) / "published"
    networks = {
        "fln": rlnlib.load_published(folder / "FLN_c10.model"),
        "rln-t": rlnlib.load_published(folder / "RLN_t_c10.model"),
    }
    rows = []
    for grain_size, stiff_fraction in RANGES:
        cells = rlnlib.generate_cells(options.cells, options.size, grain_size, stiff_fraction, seed=options.seed)
        true = rlnlib.solve_strain(cells, 10.0, rtol=1e-4, dtype=torch.float32).strain[:, 0]
        row = {"grain_size": grain_size, "stiff_fraction": stiff_fraction}
        row.update({kind: score(network, cells, true) for kind, network in networks.items()})
        rows.append(row)
        print(row, flush=True)
    provenance.write_record(
        __doc__.split("\n")[0], options, {"contrast": 10.0, "precision": str(DTYPE), "ranges": rows}
    )


if __name__ == "__main__":
    main()
