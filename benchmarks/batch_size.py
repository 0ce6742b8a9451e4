"""Cells a second by the number of cells in a call: one cell, or many at once?

    python benchmarks/batch_size.py --out benchmarks/results/batch_size.json

Predictions of the shipped RLN in float32 and bfloat16, in the batches that `predict_strain` chooses and in a
single one, and solutions by conjugate gradients that are as accurate as the RLN or better.
"""

import torch

import common
import rlnlib
from rlnlib import provenance

QUESTION = "Cells a second by the number of cells in a call"


def main():
    options = common.parse(
        __doc__, size=16, contrast=10.0, batches=(1, 2, 4, 8, 16, 32, 64, 128, 256), iterations=5, repeats=3
    )
    stiff = torch.from_numpy(rlnlib.generate_cells(max(options.batches), size=options.size, seed=0))
    model = rlnlib.load_pretrained("rln", options.contrast)

    def predict(dtype, together):
        def run(n):
            rlnlib.predict_strain(model, stiff[:n], n if together else None, dtype, options.device)

        return run

    calls = {
        "RLN, float32": predict(torch.float32, False),
        "RLN, float32, a single batch": predict(torch.float32, True),
        "RLN, bfloat16": predict(torch.bfloat16, False),
        "conjugate gradients": lambda n: common.solve_roughly(
            stiff[:n], options.contrast, options.iterations, options.device
        ),
    }
    seconds, amounts = {}, {}
    for n in options.batches:
        sides = {f"{name}, {n}": lambda call=call, n=n: call(n) for name, call in calls.items()}
        seconds |= common.measure(sides, options.repeats, options.device)
        amounts |= dict.fromkeys(sides, n)
    most = max(options.batches)
    pairs = [(f"{name}, {most}", f"{name}, {min(options.batches)}") for name in calls]
    provenance.write_record(QUESTION, options, common.raw(seconds, amounts, pairs))


if __name__ == "__main__":
    main()
