"""How much memory and time does one large cell take?

    python benchmarks/large_cell.py --sizes 64 96 128 192 256 --out benchmarks/results/large_cell.json
    python benchmarks/large_cell.py --sizes 512 --dtypes float32 --limit 64 --out benchmarks/results/large_cell_512.json

One random cell of each size, solved once, in a process of its own and on one core. The memory is the peak that the
operating system reports, less what the process holds before the solve; the time is the processor's. With
`--iterations` above 0 a solve stops after so many, which is enough to see the memory. Fails above `--limit` GiB for a
whole process.
"""

import multiprocessing
import resource
import time
import warnings
from pathlib import Path

import torch

import common
import rlnlib
from rlnlib import provenance
from rlnlib.provenance import significant

DTYPES = {"mixed": "mixed", "float32": torch.float32}


def resident() -> int:
    """Resident memory of this process now, in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def cell_of(size: int):
    """Made outside of the process that is measured."""
    return rlnlib.generate_cells(1, size=size, grain_size=(4, 10), stiff_fraction=(0.4, 0.4), seed=0)


def measured(task) -> dict[str, float]:
    cell, dtype, contrast, rtol, iterations = task
    torch.set_num_threads(1)
    rlnlib.solve_strain(rlnlib.generate_cells(1, size=10, seed=0), 2.0, rtol=rtol)  # what is loaded once
    before, start = resident(), time.process_time()
    with warnings.catch_warnings():
        if iterations:
            warnings.simplefilter("ignore", RuntimeWarning)
        solution = rlnlib.solve_strain(
            cell, contrast, rtol=rtol, dtype=DTYPES[dtype], max_iterations=iterations or 2000
        )
    seconds = time.process_time() - start
    assert iterations or bool(solution.converged.all())
    return {
        "peak bytes a voxel": round((common.peak_memory() - before) / cell.size),
        "peak GiB of the process": significant(common.peak_memory() / 2**30),
        "iterations": int(solution.iterations[0]),
        "CPU seconds": significant(seconds),
    }


def main():
    options = provenance.parse(
        __doc__, sizes=(64, 96, 128), dtypes=tuple(DTYPES), contrast=50.0, rtol=1e-4, iterations=0, limit=8.0
    )
    result: dict = {"voxels": [size**3 for size in options.sizes]}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for dtype in options.dtypes:
            how = (dtype, options.contrast, options.rtol, options.iterations)
            rows = list(pool.imap(measured, ((cell_of(size), *how) for size in options.sizes)))
            result[dtype] = {name: [row[name] for row in rows] for name in rows[0]}
    provenance.write_record(__doc__.splitlines()[0], options, result)
    if max(max(result[dtype]["peak GiB of the process"]) for dtype in options.dtypes) > options.limit:
        raise SystemExit(f"A process took more than {options.limit:g} GiB.")


if __name__ == "__main__":
    main()
