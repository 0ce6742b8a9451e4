"""What a cell of the data set costs, at which tolerance, and the error that the tolerance leaves in its strain.

    python benchmarks/data_generation.py --out benchmarks/results/data_generation.json

Makes whole data sets as `python -m rlnlib.dataset make` does, from the random numbers to the joined file, after a short
one that warms up. The peak of memory is that of the process after the sets. Then some cells are solved to 1e-10 in
double precision, and solutions to looser tolerances are compared with these.
"""

import tempfile
from pathlib import Path

import torch

import common
import rlnlib
from rlnlib import dataset, provenance
from rlnlib.provenance import significant

QUESTION = "Seconds and memory of making a data set, and the error that its tolerance leaves"


def make(options, contrast: float, cells: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset.make_dataset(
            Path(folder) / "set.h5",
            cells,
            size=options.size,
            contrast=contrast,
            repeats=5,
            rtol=options.rtol,
            device=options.device,
        )


def errors(options, contrast: float) -> dict[str, dict[str, float]]:
    """Mean and worst MASE (eq. 29) by tolerance, in single precision as in the data set."""
    cells = rlnlib.generate_cells(options.compared, size=options.size, seed=1)
    exact = rlnlib.solve_strain(cells, contrast, rtol=1e-10).strain[:, 0]
    found = {}
    for rtol in (1e-3, 3e-4, 1e-4, 1e-5):
        loose = rlnlib.solve_strain(cells, contrast, rtol=rtol, dtype=torch.float32, device=options.device)
        error = rlnlib.mase(loose.strain[:, 0].cpu(), exact)
        found[f"{rtol:g}"] = {
            "mean": significant(float(error.mean())),
            "worst": significant(float(error.max())),
            "iterations": significant(float(loose.iterations.double().mean())),
        }
    return found


def main():
    options = provenance.parse(__doc__, size=31, cells=320, repeats=3, rtol=1e-4, contrasts=(10.0, 50.0), compared=32)
    make(options, options.contrasts[0], 40)
    sides = {f"{k:g}": lambda k=k: make(options, k, options.cells) for k in options.contrasts}
    seconds = {k: [common.timed(side, options.device) for _ in range(options.repeats)] for k, side in sides.items()}
    peak = common.peak_memory()
    result = {
        **common.raw(seconds, dict.fromkeys(sides, options.cells)),
        "peak_gibibytes": significant(peak / 2**30),
        "mase_percent_by_tolerance": {f"{k:g}": errors(options, k) for k in options.contrasts},
    }
    if options.device == "cuda":
        result["peak_gibibytes_of_the_gpu"] = significant(torch.cuda.max_memory_allocated() / 2**30)
    provenance.write_record(QUESTION, options, result)


if __name__ == "__main__":
    main()
