"""How long does a fresh process take until its first solution?

    python benchmarks/start.py --out benchmarks/results/start.json

Processor seconds of the imports of torch and, after it, of the library; then of two solutions of the same cell, of
which the first one loads the compiled loops from their cache. One thread; a process before the first fills the cache.
"""

import json
import subprocess
import sys

from rlnlib import provenance
from rlnlib.provenance import significant

PROCESS = """
import json, time
marks = [time.process_time()]
import torch
torch.set_num_threads(1)
marks.append(time.process_time())
import rlnlib
marks.append(time.process_time())
cell = rlnlib.generate_cells(1, size={size}, seed=0)
for _ in range(2):
    start = time.process_time()
    rlnlib.solve_strain(cell, 10.0, rtol=1e-4)
    marks.append(time.process_time() - start)
print(json.dumps([marks[1] - marks[0], marks[2] - marks[1], *marks[3:]]))
"""
STEPS = ("import torch", "import rlnlib after it", "first solution", "second solution")


def main():
    options = provenance.parse(__doc__, size=16, repeats=5)
    command = [sys.executable, "-c", PROCESS.format(size=options.size)]
    runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(options.repeats + 1)][1:]
    spent = {step: [significant(s) for s in turns] for step, turns in zip(STEPS, zip(*runs, strict=True), strict=True)}
    provenance.write_record(__doc__.splitlines()[0], options, {"processor_seconds_of_each_process": spent})


if __name__ == "__main__":
    main()
