"""Cells a second of a training step: forward, loss over the passes, gradient, Adam.

    python benchmarks/training_step.py --out benchmarks/results/training_step.json

Each of the three networks in float32 and with its convolutions in bfloat16; the loss is the sum over the passes.
"""

import torch

import common
import rlnlib
from rlnlib import provenance
from rlnlib.rln import KINDS, RLN, phase_indicators

QUESTION = "Cells a second in a training step"


def training_step(kind, dtype, stiff, device):
    torch.manual_seed(0)
    model = RLN(**KINDS[kind]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    indicators, target = phase_indicators(stiff).to(device), torch.ones(len(stiff), 1, *stiff.shape[1:], device=device)

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = sum((y - target).square().mean() for y in model(indicators, return_iterates=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main():
    options = common.parse(__doc__, size=16, cells=16, repeats=3)
    stiff = torch.from_numpy(rlnlib.generate_cells(options.cells, size=options.size, seed=0))
    sides = {
        f"{kind}, {str(dtype)[6:]}": training_step(kind, dtype, stiff, options.device)
        for kind in KINDS
        for dtype in (torch.float32, torch.bfloat16)
    }
    seconds = common.measure(sides, options.repeats, options.device)
    pairs = [(f"{kind}, bfloat16", f"{kind}, float32") for kind in KINDS]
    pairs += [("rln-t, float32", "rln, float32"), ("fln, float32", "rln, float32")]
    provenance.write_record(QUESTION, options, common.raw(seconds, dict.fromkeys(sides, options.cells), pairs))


if __name__ == "__main__":
    main()
