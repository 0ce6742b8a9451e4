"""How much memory and time does one large cell take?

    python benchmarks/large_cell.py --out benchmarks/results/large_cell.json

One random cell, solved once, in a process of its own: the peak of the resident memory is that of the whole program, the
libraries included. Fails above --limit GiB, or if the cell has not converged.
"""

import resource

import torch

import common
import rlnlib
from rlnlib import provenance
from rlnlib.provenance import significant

GIB = 2**30


def peak() -> float:
    """Largest resident memory of this process so far, in GiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def main():
    options = provenance.parse(__doc__, size=128, contrast=50.0, rtol=1e-6, dtype="float64", limit=8.0)
    cell = rlnlib.generate_cells(1, size=options.size, grain_size=(4, 10), stiff_fraction=(0.4, 0.4), seed=0)
    before, solutions = peak(), []

    def solve():
        dtype = getattr(torch, options.dtype)
        solutions.append(rlnlib.solve_strain(cell, options.contrast, rtol=options.rtol, dtype=dtype))

    seconds = common.timed(solve)
    (solution,) = solutions
    result = {
        "peak_GiB": significant(peak()),
        "peak_before_GiB": significant(before),
        "seconds": significant(seconds),
        "iterations": int(solution.iterations[0]),
        "residual": significant(float(solution.residual[0])),
    }
    provenance.write_record(__doc__.splitlines()[0], options, result)
    if not bool(solution.converged.all()) or peak() > options.limit:
        raise SystemExit(f"converged: {bool(solution.converged.all())}, {peak():.2f} GiB of {options.limit:g} GiB")


if __name__ == "__main__":
    main()
