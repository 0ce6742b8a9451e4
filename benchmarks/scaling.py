"""Seconds a cell against its number of voxels: conjugate gradients, fixed point, FLN and RLN, with fitted exponents.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

The solvers run to the same residual, the cells keep the same grains in voxels, and each exponent is the slope of
log seconds over log voxels. The transforms of a solver cost S log S: its slope with the logarithm divided out stands
beside it, as do the iterations.
"""

import math

import common
import torch

import rlnlib

QUESTION = "Seconds a cell against its number of voxels"


def slope(voxels, seconds):
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (voxels, seconds))
    return common.significant(float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()))


def main():
    options = common.parse(__doc__, sizes=(16, 32, 64, 128), repeats=2, contrast=10.0, rtol=1e-4)
    networks = {kind: rlnlib.load_pretrained(kind, options.contrast) for kind in ("fln", "rln")}
    median = {}
    counts = {"conjugate_gradient": [], "fixed_point": []}
    for size in options.sizes:
        cell = rlnlib.generate_cells(1, size=size, seed=1)
        iterations = {}

        def solve(solver, cell=cell, iterations=iterations):
            keywords = {"discretization": "rotated", "rtol": options.rtol, "device": options.device}
            solution = rlnlib.solve_strain(cell, options.contrast, solver=solver, **keywords)
            iterations[solver] = int(solution.iterations)

        sides = {solver: lambda solver=solver, solve=solve: solve(solver) for solver in counts}
        sides |= {
            kind: lambda model=model, cell=cell: rlnlib.predict_strain(model, cell, device=options.device)
            for kind, model in networks.items()
        }
        for name, spent in common.measure(sides, options.repeats, options.device).items():
            median.setdefault(name, []).append(common.significant(sorted(spent)[len(spent) // 2]))
        for solver in counts:
            counts[solver].append(iterations[solver])
    voxels = [size**3 for size in options.sizes]
    without_logarithm = {
        name: slope(voxels, [s / math.log(v) for s, v in zip(median[name], voxels, strict=True)]) for name in counts
    }
    result = {
        "voxels": voxels,
        "median_seconds": median,
        "iterations": counts,
        "exponent": {name: slope(voxels, seconds) for name, seconds in median.items()},
        "exponent_with_the_logarithm_divided_out": without_logarithm,
    }
    common.write(QUESTION, options, result)


if __name__ == "__main__":
    main()
