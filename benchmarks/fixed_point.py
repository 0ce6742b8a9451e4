"""Moulinec's fixed point and gradient descent beside conjugate gradients: cells a second.

    python benchmarks/fixed_point.py --out benchmarks/results/fixed_point.json

The three solvers of `solve_strain` on the same cells and elements. Each stops by a residual of its own, so the error
that is left stands beside the rate: the MASE against the converged field.
"""

from collections.abc import Callable
from functools import partial

import torch

import common
import rlnlib
from rlnlib import provenance
from rlnlib.provenance import significant

QUESTION = "Moulinec's fixed point and gradient descent beside conjugate gradients: cells a second"


def main():
    options = common.parse(__doc__, size=16, cells=1, contrast=10.0, rtol=1e-3, repeats=3)
    cells = torch.from_numpy(rlnlib.generate_cells(options.cells, size=options.size, seed=0))
    exact = rlnlib.solve_strain(cells, options.contrast).strain[:, 0]
    found: dict[str, rlnlib.Solution] = {}

    def solve(name):
        found[name] = rlnlib.solve_strain(
            cells, options.contrast, rtol=options.rtol, solver=name, device=options.device
        )

    names = {name.replace("_", " "): name for name in ("conjugate_gradient", "gradient_descent", "fixed_point")}
    sides: dict[str, Callable[[], object]] = {shown: partial(solve, name) for shown, name in names.items()}
    seconds = common.measure(sides, options.repeats, options.device)
    first, *others = sides
    solutions = {shown: found[name] for shown, name in names.items()}
    result = {
        **common.raw(seconds, dict.fromkeys(sides, options.cells), [(first, other) for other in others]),
        "mean_iterations": {name: significant(float(s.iterations.double().mean())) for name, s in solutions.items()},
        "mase_percent": {
            name: significant(float(rlnlib.mase(s.strain[:, 0].cpu(), exact).mean())) for name, s in solutions.items()
        },
    }
    provenance.write_record(QUESTION, options, result)


if __name__ == "__main__":
    main()
