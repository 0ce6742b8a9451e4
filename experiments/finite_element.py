"""Which finite element made the paper's truth? Four candidates against reference fields, and against each other.

    RLN_REFERENCE_DATA=FOLDER python experiments/finite_element.py --out data/results/finite_element.json

The reference fields are axial strains of cells of 21^3 voxels of an implicit finite-element program, at contrast 10 and
50. Then the candidates are compared on cells like the paper's, without reference fields: what the choice is worth.
"""

import os
from pathlib import Path

import numpy as np
import torch

import rlnlib
from rlnlib import discretizations, provenance


def differences(cells, contrast: float, truth: torch.Tensor) -> dict[str, dict[str, float]]:
    """MASE (eq. 29, percent) and the largest difference of a voxel, by discretization."""
    found = {}
    for name in discretizations.DISCRETIZATIONS:
        strain = rlnlib.solve_strain(cells, contrast, discretization=name).strain[:, 0]
        error = rlnlib.mase(strain, truth)
        found[name] = {
            "mean": provenance.significant(float(error.mean())),
            "worst": provenance.significant(float(error.max())),
            "largest_difference": provenance.significant(float((strain - truth).abs().max())),
        }
    return found


def main():
    options = provenance.parse(__doc__, cells=32, size=31, seed=0, contrasts=(10.0, 50.0))
    folder = Path(os.environ["RLN_REFERENCE_DATA"])
    reference, ours = {}, {}
    cells = rlnlib.generate_cells(options.cells, size=options.size, seed=options.seed)
    for contrast in options.contrasts:
        data = np.load(folder / f"fe_strain_21_cr{contrast:g}.npz")
        truth = torch.from_numpy(data["strain_xx"]).double()
        reference[f"{contrast:g}"] = {"cells": len(truth), **differences(data["phase"], contrast, truth)}
        print(reference, flush=True)
        bbar = rlnlib.solve_strain(cells, contrast).strain[:, 0]
        ours[f"{contrast:g}"] = {"cells": len(cells), **differences(cells, contrast, bbar)}
    result = {"against_the_reference_fields": reference, "against_bbar_on_cells_like_the_papers": ours}
    provenance.write_record(__doc__.split("\n")[0], options, result)


if __name__ == "__main__":
    main()
