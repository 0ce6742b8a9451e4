"""How do the shipped networks treat high strains, and when? Four statements of section 4.1, on cells of their own.

    python experiments/peaks.py --out data/results/peaks.json

What counts as holding was fixed before these cells were looked at. Each has to hold at each contrast, the last one,
which the paper makes of one cell of contrast 50, at that contrast; and beyond chance: the 95 % bootstrap interval over
the cells lies on the right side of 0.

- "High-strain regions appear to be captured in the first two iterations, low-strain regions continue to be refined":
  after two passes of the RLN, the error in the twentieth of the voxels of highest strain, as a multiple of its final
  error, is smaller than the same in the half of lowest strain. Interval of the difference, low minus high.
- "The FLN misses the strain peaks": in the hundredth of the voxels of highest strain, it underestimates, and more than
  the RLN-t and the RLN do. Intervals of its relative bias, and of the others' bias minus its own.
- "The FLN does not apply the same operation as the first iteration of the RLN-t; it is trained to make the best
  possible answer within a single jump": after one pass the RLN-t's MASE is larger. Interval of the difference.
- "The RLN-t fails to capture the central strain peak as well as the full RLN": in the voxel of highest strain of each
  cell its error is the larger. Interval of the difference of the relative errors, absolute values.
"""

import numpy as np
import torch

import rlnlib
from rlnlib import provenance, rln


def interval(values: np.ndarray, statistic, resamples: int = 2000) -> list[float]:
    """95 % bootstrap interval of a statistic of rows, one row for each cell."""
    draw = np.random.default_rng(0)
    found = [statistic(values[draw.integers(0, len(values), len(values))].mean(0)) for _ in range(resamples)]
    return [round(float(bound), 4) for bound in np.quantile(found, [0.025, 0.975])]


def main():
    options = provenance.parse(__doc__, cells=256, size=16, seed=91_000, contrasts=(10.0, 50.0))
    cells = torch.from_numpy(rlnlib.generate_cells(options.cells, size=options.size, seed=options.seed))
    rows = []
    for contrast in options.contrasts:
        truth = rlnlib.solve_strain(cells, contrast, rtol=1e-4).strain[:, 0].float()
        flat = truth.flatten(1)
        high, low, peak = (
            (flat >= flat.quantile(0.95, 1, True)).float(),
            (flat <= flat.quantile(0.5, 1, True)).float(),
            (flat >= flat.quantile(0.99, 1, True)).float(),
        )
        highest = flat.argmax(1, keepdim=True)
        biases, first, at_peak, row = {}, {}, {}, {"contrast": contrast, "weights": {}}
        for kind in rln.KINDS:
            model = rlnlib.load_pretrained(kind, contrast, options.size)
            row["weights"] |= provenance.weights_used(kind, contrast, options.size)
            iterates = [field.flatten(1) for field in rlnlib.predict_strain(model, cells, return_iterates=True)]
            relative = iterates[-1] / flat - 1
            biases[kind] = (relative * peak).sum(1) / peak.sum(1)
            first[kind] = iterates[0].view_as(truth)
            at_peak[kind] = relative.gather(1, highest).abs()[:, 0]
            if kind == "rln":
                sums = [((y - flat).abs() * region).sum(1) for region in (high, low) for y in iterates]
                errors = torch.stack(sums, 1).double().numpy()  # (cells, 2 passes): high strains, then low
        n = errors.shape[1] // 2

        def unsettled(means, n=n):
            """What two passes leave, as a multiple of the final error: of the high strains, of the low ones."""
            return means[1] / means[n - 1], means[n + 1] / means[2 * n - 1]

        def difference(means):
            settled, not_yet = unsettled(means)
            return not_yet - settled

        table = torch.stack([biases[kind] for kind in rln.KINDS], 1).double().numpy()
        row["after_two_passes"] = dict(
            zip(("high", "low"), (round(float(x), 4) for x in unsettled(errors.mean(0))), strict=True)
        )
        row["low_minus_high"] = interval(errors, difference)
        row["bias"] = {kind: round(float(biases[kind].mean()), 5) for kind in rln.KINDS}
        row["bias_of_fln"] = interval(table, lambda means: means[0])
        row["others_minus_fln"] = {
            kind: interval(table, lambda means, column=column: means[column] - means[0])
            for column, kind in enumerate(rln.KINDS)
            if column
        }
        jumps = torch.stack([rlnlib.mase(first[kind], truth) for kind in ("fln", "rln-t")], 1).double().numpy()
        row["mase_after_one_pass"] = dict(zip(("fln", "rln-t"), jumps.mean(0).round(3).tolist(), strict=True))
        row["mase_between_the_two"] = round(float(rlnlib.mase(first["fln"], first["rln-t"]).mean()), 3)
        row["one_pass_rln_t_minus_fln"] = interval(jumps, lambda means: means[1] - means[0])
        row["error_at_highest"] = {kind: round(float(at_peak[kind].mean()), 5) for kind in rln.KINDS}
        errors = torch.stack([at_peak[kind] for kind in ("rln-t", "rln")], 1).double().numpy()
        row["at_highest_rln_t_minus_rln"] = interval(errors, lambda means: means[0] - means[1])
        row["high_strains_first"] = row["low_minus_high"][0] > 0
        row["fln_misses_peaks"] = row["bias_of_fln"][1] < 0 and all(i[0] > 0 for i in row["others_minus_fln"].values())
        row["fln_is_not_the_first_pass"] = row["one_pass_rln_t_minus_fln"][0] > 0
        row["rln_t_misses_the_highest"] = row["at_highest_rln_t_minus_rln"][0] > 0
        rows.append(row)
    provenance.write_record("How do the shipped networks treat high strains, and when?", options, {"rows": rows})


if __name__ == "__main__":
    main()
