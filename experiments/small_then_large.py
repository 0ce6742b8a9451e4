"""What does a network that was trained on small cells make of larger ones, and what does training go on to mend?

    python experiments/small_then_large.py --out data/results/small_then_large.json

The shipped RLN for cells of 16^3 ("rln") and the one whose training went on at 31^3 from these very weights
("rln-further"), both with the V-Net that has no seam on odd sizes, on the same fresh cells of each size. For each: the
error by pass and by cell, and how the squared error of the last iterate divides among waves, by wavelength; beside it
what the true fluctuation holds there.
"""

import math

import torch

import rlnlib
from rlnlib import metrics, provenance

#: Wavelengths in voxels between which the squared error is counted; no wave on a cell of 16^3 is longer than 16.
WAVELENGTHS = (4.0, 8.0, 16.0)
#: The shipped network for each size: that of 31^3 began with the weights of that of 16^3.
KINDS = {16: "rln", 31: "rln-further"}


def main():
    options = provenance.parse(__doc__, cells=256, seed=70_000, sizes=(16, 31), contrasts=(10.0, 50.0))
    rows = []
    for size in options.sizes:
        cells = torch.from_numpy(rlnlib.generate_cells(options.cells, size=size, seed=options.seed + size))
        for contrast in options.contrasts:
            truth = rlnlib.solve_strain(cells, contrast, rtol=1e-4).strain[:, 0].float()
            baseline = rlnlib.mase(torch.ones_like(truth), truth)
            energy = metrics.energy_by_wavelength(truth - 1, WAVELENGTHS).mean(0)
            for trained_on in options.sizes:
                network = KINDS[trained_on], contrast, trained_on
                model = rlnlib.load_pretrained(*network).with_options(proximal="vnet-periodic")
                fields = rlnlib.predict_strain(model, cells, return_iterates=True)
                errors = rlnlib.mase(fields[-1], truth)
                wrong = metrics.energy_by_wavelength(fields[-1] - truth, WAVELENGTHS).mean(0)
                row = {
                    "trained_on": trained_on,
                    "size": size,
                    "contrast": contrast,
                    "weights": provenance.weights_used(*network),
                    **{name: metrics.summary(errors)[name] for name in ("mean", "deviation", "standard_error")},
                    "macroscopic_strain": float(baseline.mean()),
                    "by_pass": [float(rlnlib.mase(field, truth).mean()) for field in fields],
                    "share_of_error": (wrong / wrong.sum()).tolist(),
                    "share_of_fluctuation": (energy / energy.sum()).tolist(),
                    "relative_error": (wrong / energy).sqrt().tolist(),
                    "mase": errors.tolist(),
                }
                rows.append({key: rounded(value) for key, value in row.items()})
                print({key: value for key, value in rows[-1].items() if key not in ("mase", "weights")}, flush=True)
    provenance.write_record(
        "What networks trained on small cells make of larger ones",
        options,
        {"wavelengths": WAVELENGTHS, "rows": rows},
    )


def rounded(value):
    if isinstance(value, list):
        return [rounded(part) for part in value]
    if not isinstance(value, float):
        return value
    return provenance.significant(value) if math.isfinite(value) else None  # a cell may have no wave so long


if __name__ == "__main__":
    main()
