"""Seconds a cell against its number of voxels: conjugate gradients, fixed point, FLN and RLN, with fitted exponents.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

The solvers run to the same residual, and the cells keep the same grains in voxels. The page derives the exponents: each
is the slope of log seconds over log voxels. The transforms of a solver cost S log S: its slope with the logarithm
divided out stands beside it, as do the iterations. A cliff would show in the exponent from each size to the next.
"""

import common
import rlnlib
from rlnlib import provenance
from rlnlib.provenance import significant

QUESTION = "Seconds a cell against its number of voxels"


def main():
    options = common.parse(__doc__, sizes=(16, 32, 64, 128), repeats=(9, 7, 3, 1), contrast=10.0, rtol=1e-3)
    networks = {kind: rlnlib.load_pretrained(kind, options.contrast) for kind in ("fln", "rln")}
    solvers = ("conjugate_gradient", "fixed_point")
    seconds = {name: [] for name in (*solvers, *networks)}
    counts = {name: [] for name in solvers}
    for size, repeats in zip(options.sizes, options.repeats, strict=True):
        cell = rlnlib.generate_cells(1, size=size, seed=1)
        iterations = {}

        def solve(solver, cell=cell, iterations=iterations):
            keywords = {"discretization": "rotated", "rtol": options.rtol, "device": options.device}
            solution = rlnlib.solve_strain(cell, options.contrast, solver=solver, **keywords)
            iterations[solver] = int(solution.iterations)

        sides = {solver: lambda solver=solver, solve=solve: solve(solver) for solver in solvers}
        sides |= {
            kind: lambda model=model, cell=cell: rlnlib.predict_strain(model, cell, device=options.device)
            for kind, model in networks.items()
        }
        for name, spent in common.measure(sides, repeats, options.device).items():
            seconds[name].append([significant(s) for s in spent])
        for solver in solvers:
            counts[solver].append(iterations[solver])
    result = {"voxels": [size**3 for size in options.sizes], "seconds_by_size": seconds, "iterations": counts}
    provenance.write_record(QUESTION, options, result)


if __name__ == "__main__":
    main()
