"""Forward pass: predictions a second of `rlnlib.predict_strain` and of a plain float32 implementation.

    RLN_REFERENCE_DATA=FOLDER python benchmarks/network_forward.py --out benchmarks/results/network_forward.json

The plain side is the network as one would write it from Fig. 3: contiguous tensors, torch's own circular padding,
convolutions and activations, one after the other, with all cores for each. The machine's matrix-product rate is
measured in the same turns. Weights: the released RLN-t where RLN_REFERENCE_DATA names its folder, else the shipped one.
"""

import os
from pathlib import Path

import common
import torch
import torch.nn.functional as F

import rlnlib
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
    """Multiplications and additions of the plain forward pass of one cell."""
    voxels = (size + 5 if size % 2 else size) ** 3
    return 2 * 5 * voxels * (27 * (6 * 16 + 16 * 16 + 2 * 32 * 32 / 8 + 48 * 32 + 32 * 16) + 16 * 32 + 32 * 32 + 16)


def main():
    options = common.parse(__doc__, cells=8, size=31, repeats=5)
    folder = os.environ.get("RLN_REFERENCE_DATA")
    model = (
        rlnlib.load_published(Path(folder) / "published" / "RLN_t_c10.model")
        if folder
        else rlnlib.load_pretrained("rln-t", 10.0)
    )
    model = model.to(options.device)
    stiff = torch.from_numpy(rlnlib.generate_cells(options.cells, size=options.size, seed=0)).to(options.device)
    sides = {
        "rlnlib": lambda: rlnlib.predict_strain(model, stiff),
        "plain": lambda: plain_prediction(model, stiff, options.cells),
        "plain, one cell at a time": lambda: plain_prediction(model, stiff, 1),
        "matrix product": common.matrix_product(device=options.device),
    }
    ours = rlnlib.predict_strain(model, stiff).to(options.device)
    theirs = plain_prediction(model, stiff, options.cells)
    seconds = common.measure(sides, options.repeats, options.device)
    rate = common.summary(seconds["matrix product"], 2 * 2048**3 / 1e9)
    plain = [s for name, s in seconds.items() if name.startswith("plain")]
    quickest = min(plain, key=lambda s: sorted(s)[len(s) // 2])
    cells_per_second = {
        name: common.summary(s, options.cells) for name, s in seconds.items() if name != "matrix product"
    }
    share = cells_per_second["plain"]["median"] * operations(model, options.size) / 1e9 / rate["median"]
    common.write(
        "Predictions of an RLN-t a second, against a plain float32 implementation",
        options,
        {
            "weights": "released with the paper" if folder else "shipped with the library",
            "cells_per_second": cells_per_second,
            "ratio_to_plain": common.ratios(seconds["rlnlib"], quickest),
            "largest_difference": common.significant(float((ours - theirs).abs().max())),
            "matrix_product_gflop_per_second": rate,
            "gflop_per_cell_plain": common.significant(operations(model, options.size) / 1e9),
            "share_of_matrix_product_rate_plain": common.significant(share),
        },
    )


if __name__ == "__main__":
    main()
