"""One thread or two, on the machine as it is and beside a program that keeps a core busy: cells solved a second.

    python benchmarks/threads.py --out benchmarks/results/threads.json

The solver takes no more threads than there are idle cores; beside a busy program two may therefore be one.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import torch

import common
import rlnlib
from rlnlib import provenance

BUSY = "import time\nstop = time.time() + 600\nwhile time.time() < stop: pass"


@contextlib.contextmanager
def busy_program() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


def main():
    options = common.parse(__doc__, size=64, cells=1, contrast=50.0, rtol=1e-4, repeats=5)
    cells = rlnlib.generate_cells(options.cells, size=options.size, seed=0)

    def solve(threads):
        torch.set_num_threads(threads)
        rlnlib.solve_strain(cells, options.contrast, rtol=options.rtol)

    def sides(where):
        return {f"{name}, {where}": lambda n=n: solve(n) for n, name in ((1, "one thread"), (2, "two threads"))}

    alone, beside = "machine as it is", "beside a busy program"
    seconds = common.measure(sides(alone), options.repeats)
    with busy_program():
        seconds |= common.measure(sides(beside), options.repeats)
    pairs = [(f"two threads, {where}", f"one thread, {where}") for where in (alone, beside)]
    provenance.write_record(
        __doc__.splitlines()[0], options, common.raw(seconds, dict.fromkeys(seconds, options.cells), pairs)
    )


if __name__ == "__main__":
    main()
