"""Forward pass: predictions a second of `rlnlib.predict_strain`, in two precisions, and of a plain implementation.

    RLN_REFERENCE_DATA=FOLDER python benchmarks/network_forward.py --out benchmarks/results/network_forward.json

The plain side is the network as one would write it from Fig. 3: contiguous tensors, torch's own circular padding,
convolutions and activations, one after the other, with all cores for each; in the batch that suits it best, which the
ratios take. The machine's rate of matrix products, in
float32 and in bfloat16, is measured in the same turns. The drift of bfloat16 is that of the mean error, MASE
against the converged strain; its distance to the float32 field stands beside it in the same measure. Weights: the
released RLN-t where RLN_REFERENCE_DATA names its folder, else the shipped one.
"""

import os
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

import common
import rlnlib
from rlnlib import provenance
from rlnlib.provenance import significant
from rlnlib.rln import phase_indicators


def plain_vnet(network, field):
    """One pass of the released network, layer by layer."""

    def conv(layer, field):
        return F.conv3d(F.pad(field, (1,) * 6, mode="circular"), layer.weight, layer.bias)

    def prelu(layer, field):
        return F.prelu(field, layer.weight)

    odd = field.shape[-1] % 2
    if odd:
        field = F.pad(field, (2, 3) * 3, mode="circular")
    first, first_slope, second, second_slope = network.begin
    skipped = prelu(second_slope, conv(second, prelu(first_slope, conv(first, field))))
    field = prelu(network.down[1], F.conv3d(skipped, network.down[0].weight, network.down[0].bias, stride=2))
    for n in range(0, len(network.low), 2):
        field = prelu(network.low[n + 1], conv(network.low[n], field))
    field = prelu(network.up[1], F.conv_transpose3d(field, network.up[0].weight, network.up[0].bias, stride=2))
    field = prelu(network.end[1], conv(network.end[0], torch.cat([field, skipped], 1)))
    field = F.conv3d(conv(network.end[2], field), network.end[3].weight, network.end[3].bias)
    return field[..., 2:-3, 2:-3, 2:-3] if odd else field


@torch.no_grad()
def plain_prediction(model, stiff, batch_size):
    parts = []
    for batch in stiff.split(batch_size):
        phases = phase_indicators(batch)
        past = [torch.ones_like(phases[:, :1]), *[torch.zeros_like(phases[:, :1])] * model.history]
        for n in range(model.passes):
            network = model.proximals[n % len(model.proximals)]
            update = plain_vnet(network, torch.cat([phases * y for y in past], 1))
            past = [1 + update - update.mean((1, 2, 3, 4), keepdim=True), *past[:-1]]
        parts.append(past[0][:, 0])
    return torch.cat(parts)


def operations(model, size):
    """Multiplications and additions for one cell: of the plain forward pass, and of ours in float32 and bfloat16.

    The activations are left out. Ours: all but the last two convolutions on the padded box, then what the crop needs;
    of Winograd's convolution two thirds of the products.
    """
    odd, inner = size % 2, size + 2 * (size % 2)
    box, cropped = (size + 5 * odd) ** 3, (inner + odd) * inner**2
    before = 27 * (6 * 16 + 16 * 16 + 2 * 32 * 32 / 8) + 16 * 32 + 32 * 32
    widest, last, reduced = 27 * 48 * 32, 27 * 32 * 16 + 16, 27 * 32
    return {
        "plain": 2 * model.passes * box * (before + widest + last),
        "rlnlib": 2 * model.passes * (box * before + cropped * (2 / 3 * widest + reduced)),
        "rlnlib, bfloat16": 2 * model.passes * (box * before + cropped * (widest + reduced)),
    }


def main():
    options = provenance.parse(__doc__, cells=8, size=31, repeats=7)
    folder = os.environ.get("RLN_REFERENCE_DATA")
    model = (
        rlnlib.load_published(Path(folder) / "published" / "RLN_t_c10.model")
        if folder
        else rlnlib.load_pretrained("rln-t", 10.0)
    )
    model = model.to(options.device)
    cells = torch.from_numpy(rlnlib.generate_cells(options.cells, size=options.size, seed=0))
    stiff, bfloat16 = cells.to(options.device), torch.bfloat16
    product = 2 * 2048**3
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
    products = {name: seconds.pop(name) for name in list(seconds) if name.startswith("matrix")}
    quickest = min((name for name in seconds if name.startswith("plain")), key=lambda name: median(seconds[name]))
    measured = common.rates(
        seconds,
        dict.fromkeys(seconds, options.cells),
        [("rlnlib", quickest), ("rlnlib, bfloat16", quickest), ("rlnlib, bfloat16", "rlnlib")],
    )
    peak = {name: common.summary(spent, product / 1e9) for name, spent in products.items()}
    work = {name: count / 1e9 for name, count in operations(model, options.size).items()}
    share = {
        name: measured["cells_per_second"][name]["median"] * count / peak[peak_of]["median"]
        for (name, count), peak_of in zip(
            work.items(), ("matrix product",) * 2 + ("matrix product, bfloat16",), strict=True
        )
    }
    provenance.write_record(
        "Predictions of an RLN-t a second, against a plain float32 implementation",
        options,
        {
            "weights": "released with the paper" if folder else "shipped with the library",
            **measured,
            "largest_difference_to_plain": significant(float((exact - plain).abs().max())),
            "largest_value": significant(float(exact.abs().max())),
            "mase_percent": {"float32": significant(errors[0]), "bfloat16": significant(errors[1])},
            "mase_percent_between_the_precisions": significant(float(rlnlib.mase(reduced, exact).mean())),
            "matrix_product_gflop_per_second": peak,
            "gflop_per_cell": {name: significant(count) for name, count in work.items()},
            "share_of_matrix_product_rate": {name: significant(value) for name, value in share.items()},
        },
    )


if __name__ == "__main__":
    main()
