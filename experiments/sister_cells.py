"""How much do sister cells, of one design point, on both sides of the split flatter the test error?

    python experiments/sister_cells.py --out data/results/sister_cells.json

Design points are dealt into two halves, each of ``points``. Of the five cells of each point two are for training, as in
the 40 % of the paper's split by cell, and three for testing. One network learns from the first half and one from the
second, and both are tested on the test cells of both halves: each test cell is then scored once by a network that has
seen its sisters and once by one that has not, and the difference of the two errors is what sisters give. Halves and
networks change roles, so neither counts. The standard error is over design points, whose cells are averaged first.
"""

import tempfile

import torch

import rlnlib
from rlnlib import metrics, provenance, rln, runs, training

REPEATS, TRAINING = 5, 2


def test_errors(cells, strain, seed: int, config: training.TrainingConfig, validation) -> torch.Tensor:
    """Shape: cells, strain (2 halves, points, 5, N, N, N) -> (2 networks, 2 halves, points, 3) errors, percent."""
    errors = []
    for half in range(2):
        torch.manual_seed(seed + half)
        network = rlnlib.RLN(**rln.KINDS["fln"])
        learned = [field[half, :, :TRAINING].flatten(0, 1) for field in (cells, strain)]
        with tempfile.TemporaryDirectory() as folder:
            runs.train(network, learned, validation, config, folder, device="cpu")
        tested = [field[:, :, TRAINING:].flatten(0, 2) for field in (cells, strain)]
        error = rlnlib.mase(rlnlib.predict_strain(network, tested[0]), tested[1])
        errors.append(error.view(2, -1, REPEATS - TRAINING))
    return torch.stack(errors)


def measure(points: int, size: int, contrast: float, seed: int, config: training.TrainingConfig) -> dict:
    made = rlnlib.generate_cells(2 * points * REPEATS, size=size, repeats=REPEATS, seed=seed)
    others = rlnlib.generate_cells(30, size=size, seed=seed + 1000)
    true, other_true = (rlnlib.solve_strain(c, contrast, rtol=1e-4).strain[:, 0].float() for c in (made, others))
    cells = torch.from_numpy(made).view(2, points, REPEATS, size, size, size)
    errors = test_errors(cells, true.view(cells.shape), seed, config, (torch.from_numpy(others), other_true))
    known = torch.stack([errors[0, 0], errors[1, 1]]).mean(-1).flatten()  # by design point
    unknown = torch.stack([errors[1, 0], errors[0, 1]]).mean(-1).flatten()
    gain = metrics.summary(unknown - known)
    return {
        "points": points,
        "training_cells": points * TRAINING,
        "seed": seed,
        "with_sisters": round(float(known.mean()), 3),
        "without": round(float(unknown.mean()), 3),
        "gain": round(gain["mean"], 3),
        "standard_error": round(gain["standard_error"], 3),
    }


def main():
    options = provenance.parse(__doc__, points=(16, 64), seeds=2, size=16, contrast=50.0, updates=400)
    rows = []
    for points in options.points:
        epochs = max(1, round(options.updates * 8 / (points * TRAINING)))
        config = training.TrainingConfig(epochs=epochs, batch_size=8)
        for seed in range(options.seeds):
            rows.append(measure(points, options.size, options.contrast, seed, config))
            print(rows[-1], flush=True)
    question = "How much do sister cells on both sides of the split flatter the test error?"
    provenance.write_record(question, options, {"network": "fln", "rows": rows})


if __name__ == "__main__":
    main()
