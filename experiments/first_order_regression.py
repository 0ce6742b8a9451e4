"""How far does a linear map from microstructure to strain get, beside the networks?

    python experiments/first_order_regression.py --out data/results/first_order_regression.json

The test cells are those that the shipped networks were tested on; the kernels are fitted to the training part of the
same data set. In the record, by contrast: the error of the uniform guess, of the first-order kernel by the number of
cells it was fitted to, of the shipped FLN, and of passes that each have kernels of their own and see the strain of the
pass before, cut up by phase: strain_xx alone, or all six components (fitted to fewer cells, for the memory).

Fixed before the first run: a linear map is the baseline that a network has to beat. The FLN has done so where the mean
error of the first-order kernel, fitted to all training cells, is above the FLN's at both contrasts.
"""

import torch

import rlnlib
from rlnlib import dataset, lippmann_schwinger, metrics, provenance, regression, rln, weight_files


def error(predicted: torch.Tensor, true: torch.Tensor) -> dict:
    """Mean and standard error of the MASE over the cells, in percent. Shape: (B, N, N, N), (B, N, N, N)."""
    mase = metrics.mase(predicted, true)
    return {"mean": round(float(mase.mean()), 3), "standard_error": round(float(mase.std()) / len(mase) ** 0.5, 3)}


def segmented(indicators: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
    """The strain cut up by phase. Shape: (B, 2, N, N, N), (B, C, N, N, N) -> (B, 2 C, N, N, N)."""
    return torch.cat([indicators[:, h : h + 1] * strain for h in range(2)], dim=1)


def passes(train: tuple, test: tuple, number: int, cutoff: float) -> list[dict]:
    """Errors of strain_xx on the test cells, pass by pass; each of train and test is (indicators, strain)."""
    macroscopic = torch.zeros_like(train[1][:1])
    macroscopic[:, 0] = 1
    now = [macroscopic.expand_as(train[1]), macroscopic.expand_as(test[1])]
    errors = []
    for _ in range(number):
        fields = [segmented(part[0], strain) for part, strain in zip((train, test), now, strict=True)]
        kernels = regression.fit_kernels(fields[0], train[1] - macroscopic, cutoff)
        now = [macroscopic + lippmann_schwinger.convolve(kernels, field) for field in fields]
        errors.append(error(now[1][:, 0], test[1][:, 0]))
    return errors


def strain_of(cells: torch.Tensor, contrast: float) -> torch.Tensor:
    """Shape: (B, N, N, N) -> (B, 6, N, N, N)."""
    return rlnlib.solve_strain(cells, contrast, rtol=1e-4, dtype=torch.float32).strain.double()


def measure(cells: torch.Tensor, split: torch.Tensor, contrast: float, options) -> dict:
    indicators, xx = rln.phase_indicators(cells, torch.float64), strain_of(cells, contrast)[:, :1]
    train, test = ((indicators[split == part], xx[split == part]) for part in (0, 2))
    true = test[1][:, 0]
    few = []
    for part in (0, 2):
        chosen = cells[split == part][: options.few]
        few.append((rln.phase_indicators(chosen, torch.float64), strain_of(chosen, contrast)))
    by_cells = {}
    for n in [*options.fewer, len(train[0])]:
        kernels = regression.fit_kernels(train[0][:n], train[1][:n] - 1)
        by_cells[str(n)] = error(1 + lippmann_schwinger.convolve(kernels, test[0])[:, 0], true)
    predicted = rlnlib.predict_strain(rlnlib.load_pretrained("fln", contrast), cells[split == 2]).double()
    fln = error(predicted, true)
    return {
        "contrast": contrast,
        "training_cells": len(train[0]),
        "test_cells": len(true),
        "uniform": error(torch.ones_like(true), true),
        "first_order": by_cells,
        "fln": fln,
        "fln_weights": provenance.weights_used("fln", contrast, options.size),
        "fln_training_cells": weight_files.pretrained_header("fln", contrast)["training_cells"],
        "passes_xx": passes(train, test, options.passes, 1e-9),
        "passes_six": {"cells": options.few, "errors": passes(*few, options.passes, 1e-4)},
        "linear_map_is_above_the_fln": by_cells[str(len(train[0]))]["mean"] > fln["mean"],
    }


def main():
    options = provenance.parse(
        __doc__, cells=5120, size=16, seed=0, contrasts=(10.0, 50.0), fewer=(32, 128, 512), few=512, passes=5
    )
    made = rlnlib.generate_cells(options.cells, size=options.size, seed=options.seed)
    split = torch.from_numpy(dataset.draw_split(options.cells, options.seed))
    kept = split != 1  # the validation part has no use here
    rows = []
    for contrast in options.contrasts:
        rows.append(measure(torch.from_numpy(made)[kept], split[kept], contrast, options))
        print({name: rows[-1][name] for name in ("contrast", "uniform", "first_order", "fln")}, flush=True)
    provenance.write_record("How far does a linear map from microstructure to strain get?", options, {"rows": rows})


if __name__ == "__main__":
    main()
