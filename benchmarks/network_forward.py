"""Forward pass: predictions a second of `rlnlib.predict_strain`, in two precisions, and of a plain implementation.

    RLN_REFERENCE_DATA=FOLDER python benchmarks/network_forward.py --out benchmarks/results/network_forward.json

The plain side is the network as Fig. 3 is written down in rlnlib.networks: torch's own circular padding, convolutions
and activations, one after the other, with all cores for each; in the batch that suits it best, which the ratios take.
The machine's rate of matrix products, in float32 and in bfloat16, is measured in the same turns. The drift of bfloat16
is that of the mean error, MASE against the converged strain; its distance to the float32 field stands beside it in the
same measure. Weights: the released RLN-t where RLN_REFERENCE_DATA names its folder, else the shipped one.
"""

import contextlib
import os
from pathlib import Path
from statistics import median

import torch

import common
import rlnlib
from rlnlib import provenance
from rlnlib.provenance import significant
from rlnlib.rln import phase_indicators


@contextlib.contextmanager
def plain_twins():
    """Run the code of rlnlib.networks itself, as a GPU does."""
    os.environ["RLN_PLAIN"] = "1"
    try:
        yield
    finally:
        del os.environ["RLN_PLAIN"]


@torch.no_grad()
def plain_prediction(model, stiff, batch_size):
    model.eval()
    with plain_twins():
        return torch.cat([model(phase_indicators(batch))[:, 0] for batch in stiff.split(batch_size)])


def operations(model, size):
    """Multiplications and additions for one cell: of the plain forward pass, and of ours.

    The activations are left out. Ours: all but the last two convolutions on the padded box, then what the crop needs.
    """
    odd = size % 2
    box, cropped = (size + 5 * odd) ** 3, (size + 2 * odd) ** 3
    before = 27 * (6 * 16 + 16 * 16 + 2 * 32 * 32 / 8) + 16 * 32 + 32 * 32
    widest, last, reduced = 27 * 48 * 32, 27 * 32 * 16 + 16, 27 * 32
    ours = 2 * model.passes * (box * before + cropped * (widest + reduced))
    return {
        "plain": 2 * model.passes * box * (before + widest + last),
        "rlnlib": ours,
        "rlnlib, bfloat16": ours,
    }


def main():
    options = common.parse(__doc__, cells=8, size=31, repeats=7)
    folder = os.environ.get("RLN_REFERENCE_DATA")
    model = (
        rlnlib.load_published(Path(folder) / "published" / "RLN_t_c10.model")
        if folder
        else rlnlib.load_pretrained("rln-t", 10.0)
    )
    model = model.to(options.device)
    cells = torch.from_numpy(rlnlib.generate_cells(options.cells, size=options.size, seed=0))
    stiff, bfloat16 = cells.to(options.device), torch.bfloat16
    sides = {
        "rlnlib": lambda: rlnlib.predict_strain(model, stiff),
        "rlnlib, bfloat16": lambda: rlnlib.predict_strain(model, stiff, dtype=bfloat16),
        "plain": lambda: plain_prediction(model, stiff, options.cells),
        "plain, two cells at a time": lambda: plain_prediction(model, stiff, 2),
        "plain, one cell at a time": lambda: plain_prediction(model, stiff, 1),
        "matrix product": common.matrix_product(device=options.device),
        "matrix product, bfloat16": common.matrix_product(device=options.device, dtype=bfloat16),
    }
    exact, reduced, plain = (sides[name]().cpu() for name in ("rlnlib", "rlnlib, bfloat16", "plain"))
    true = rlnlib.solve_strain(cells, 10.0, rtol=1e-6).strain[:, 0]
    errors = [float(rlnlib.mase(field, true).mean()) for field in (exact, reduced)]
    seconds = common.measure(sides, options.repeats, options.device)
    plains = [name for name in seconds if name.startswith("plain")]
    quickest = min(plains, key=lambda name: median(seconds[name]))
    pairs = [("rlnlib", quickest), ("rlnlib, bfloat16", quickest), ("rlnlib, bfloat16", "rlnlib")]
    cells_a_turn = {name: options.cells for name in seconds if not name.startswith("matrix")}
    work = operations(model, options.size)
    provenance.write_record(
        "Predictions of an RLN-t a second, against a plain float32 implementation",
        options,
        {
            "weights": "released with the paper" if folder else "shipped with the library",
            **common.raw(seconds, cells_a_turn, pairs),
            "largest_difference_to_plain": significant(float((exact - plain).abs().max())),
            "largest_value": significant(float(exact.abs().max())),
            "mase_percent": {"float32": significant(errors[0]), "bfloat16": significant(errors[1])},
            "mase_percent_between_the_precisions": significant(float(rlnlib.mase(reduced, exact).mean())),
            "matrix_product_size": common.PRODUCT,
            "gflop_per_cell": {name: significant(count / 1e9) for name, count in work.items()},
        },
    )


if __name__ == "__main__":
    main()
