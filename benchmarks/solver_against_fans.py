"""How many cells a second: `rlnlib.solve_strain` and FANS, a C++ program with the same elements?

    python benchmarks/solver_against_fans.py --out benchmarks/results/solver_against_fans.json

FANS has to be on the PATH: https://github.com/DataAnalyticsEngineering/FANS, built with CMAKE_BUILD_TYPE=Release and
-march=native, or from conda-forge. Both sides solve the same cells with the same element, on one core, to the same
relative residual, in turns. Counted are the processor's seconds of the solve: on FANS's side those that it prints, from
the first residual to the last; on ours all of the call, with its set-up, strains and stresses. FANS fails on an odd
number of voxels along z, so cells of 31 have 30 along that axis; along the others their transforms have the prime 31.
(With 32 they would have 31 * 31 * 17 frequencies, an odd number, of which FANS leaves one out, and needs three times
the iterations.)

The record also has the iterations, the largest difference of the fields, the processor's seconds of a whole process
for one cell of the largest size, and the peak memory of a process with one `--large` cell above one with a tiny cell.
"""

from __future__ import annotations

import contextlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import common
import rlnlib
from rlnlib import fans, provenance
from rlnlib.provenance import significant

PROGRAM = "FANS"
QUESTION = "cells solved a second, rlnlib against FANS, same cells, elements and tolerance, one core"
#: One solve in a process of its own.
PROCESS = """
import sys, numpy, torch
torch.set_num_threads(1)
import rlnlib
cell, contrast, rtol, dtype = numpy.load(sys.argv[1]), *map(float, sys.argv[2:4]), sys.argv[4]
rlnlib.solve_strain(cell, contrast, rtol=rtol, dtype=dict(float32="mixed", float64=torch.float64)[dtype])
"""


def cells_of(size: int, count: int) -> np.ndarray:
    """Cells with an even number of voxels along z. Shape: -> (count, size, size, size or size - 1)."""
    return rlnlib.generate_cells(count, size=size, seed=0)[..., : size - size % 2]


def spent_by(command: list[str], folder: Path) -> tuple[float, int, str]:
    """Processor seconds and peak memory in bytes of a process, and what it printed."""
    before, peak = resource.getrusage(resource.RUSAGE_CHILDREN), 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            with contextlib.suppress(OSError, IndexError):  # it may just have ended
                peak = common.peak_memory(process.pid)
            time.sleep(0.002)
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise OSError(f"{' '.join(command)} failed: {printed[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak, printed


def fans_solve(cell: np.ndarray, options, folder: Path) -> tuple[float, float, int, rlnlib.Solution]:
    """Seconds of the solve and of the process, its peak memory, and the solution."""
    fans.write(folder, cell, options.contrast, rtol=options.rtol)
    (folder / fans.RESULT).unlink(missing_ok=True)
    process, memory, printed = spent_by([PROGRAM, fans.CASE, fans.RESULT], folder)
    return float(re.search(r"# Total Time \.+\s+([\d.]+) sec", printed)[1]), process, memory, fans.read(folder)


def our_process(cell: np.ndarray, options, folder: Path, dtype: str) -> tuple[float, int]:
    """Processor seconds and peak memory of a process that solves one cell."""
    np.save(folder / "cell.npy", cell)
    arguments = [str(folder / "cell.npy"), f"{options.contrast}", f"{options.rtol}", dtype]
    process, memory, _ = spent_by([sys.executable, "-c", PROCESS, *arguments], Path.cwd())
    return process, memory


def main():
    options = common.parse(
        __doc__, sizes=(31, 32, 64), cells=(16, 16, 4), contrast=50.0, rtol=1e-6, repeats=3, large=128
    )
    torch.set_num_threads(1)
    ours = {"float32": "mixed", "float64": torch.float64}
    seconds, counts, iterations, differences = {}, {}, {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size, number in zip(options.sizes, options.cells, strict=True):
            cells = cells_of(size, number)
            for repeat in range(options.repeats + 1):  # the first warms up
                spent, solved = {}, {}
                for precision, dtype in ours.items():
                    started = time.process_time()
                    solved[precision] = rlnlib.solve_strain(cells, options.contrast, rtol=options.rtol, dtype=dtype)
                    spent[f"rlnlib, {precision}, {size}"] = time.process_time() - started
                theirs, _, _, solutions = zip(*(fans_solve(cell, options, folder) for cell in cells), strict=True)
                spent[f"FANS, {size}"] = sum(theirs)
                if repeat:
                    for side, value in spent.items():
                        seconds.setdefault(side, []).append(value)
                    print({side: round(value, 2) for side, value in spent.items()}, flush=True)
            counts |= dict.fromkeys(spent, number)
            iterations[f"FANS, {size}"] = [int(solution.iterations) for solution in solutions]
            strain = torch.cat([solution.strain for solution in solutions])
            for precision, solution in solved.items():
                iterations[f"rlnlib, {precision}, {size}"] = solution.iterations.tolist()
                apart = (solution.strain - strain).abs().max()
                differences[f"{precision}, {size}"] = significant(float(apart))
        processes: dict[str, list[float]] = {"FANS": [], **{f"rlnlib, {p}": [] for p in ours}}
        one, tiny, large = (cells_of(size, 1)[0] for size in (max(options.sizes), 10, options.large))
        for _ in range(options.repeats):
            processes["FANS"].append(significant(fans_solve(one, options, folder)[1]))
            for p in ours:
                processes[f"rlnlib, {p}"].append(significant(our_process(one, options, folder, p)[0]))
        peak = {"FANS": fans_solve(large, options, folder)[2] - fans_solve(tiny, options, folder)[2]}
        for p in ours:
            of_process = [our_process(cell, options, folder, p)[1] for cell in (large, tiny)]
            peak[f"rlnlib, {p}"] = of_process[0] - of_process[1]
    pairs = [(f"rlnlib, {p}, {size}", f"FANS, {size}") for size in options.sizes for p in ours]
    version = subprocess.check_output([PROGRAM, "--version"], text=True).strip()
    result = {
        "program": version,
        **common.raw(seconds, counts, pairs),
        "iterations": iterations,
        "largest_difference_of_strain": differences,
        "processor_seconds_of_a_process": processes,
        "peak_mebibytes": {side: round(found / 2**20, 1) for side, found in peak.items()},
        "voxels_at_once": dict.fromkeys(peak, large.size),
    }
    provenance.write_record(QUESTION, options, result)


if __name__ == "__main__":
    main()
