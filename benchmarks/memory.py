"""How much memory does a solution, a prediction, a training step take at its peak?

    python benchmarks/memory.py --out benchmarks/results/memory.json

Each in a process of its own, on one cell (a training step: `--cells` of the smallest size), whose peak is read from the
operating system, less what the process held before. The same again after a first, smaller run: what the library, its
compiled loops and torch load at the first call does not count.
"""

import multiprocessing

import torch

import common
import rlnlib
from rlnlib import provenance
from rlnlib.rln import phase_indicators

QUESTION = "Peak memory above that of the idle process"


def work(name, cells, size):
    stiff = torch.from_numpy(rlnlib.generate_cells(cells, size=size, seed=0))
    if name.startswith("conjugate"):
        rlnlib.solve_strain(stiff, 10.0, rtol=1e-4)
    elif name == "fixed point":
        rlnlib.solve_strain(stiff, 10.0, rtol=1e-2, solver="fixed_point")
    elif name.startswith("training"):
        model = rlnlib.load_pretrained("rln", 10.0)
        indicators = phase_indicators(stiff)
        sum((y - 1).square().mean() for y in model(indicators, return_iterates=True)).backward()
    else:
        dtype = torch.bfloat16 if name.endswith("bfloat16") else torch.float32
        rlnlib.predict_strain(rlnlib.load_pretrained("rln", 10.0), stiff, dtype=dtype)


def measured(task):
    work(task[0], 1, 10)
    before = common.peak_memory()
    work(*task)
    return common.peak_memory() - before


def main():
    options = provenance.parse(__doc__, sizes=(16, 32, 64), cells=16)
    names = ("conjugate gradients", "fixed point", "RLN, float32", "RLN, bfloat16")
    tasks = [(name, 1, size) for name in names for size in options.sizes]
    tasks.append(("training step, RLN", options.cells, min(options.sizes)))
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = {
            f"{name}, {cells} of {size}": b
            for (name, cells, size), b in zip(tasks, pool.map(measured, tasks, 1), strict=True)
        }
    voxels = {f"{name}, {cells} of {size}": cells * size**3 for name, cells, size in tasks}
    result = {
        "peak_mebibytes": {name: round(b / 2**20, 1) for name, b in found.items()},
        "voxels_at_once": voxels,
    }
    provenance.write_record(QUESTION, options, result)


if __name__ == "__main__":
    main()
