"""Cells a second of a training step and of data generation, and of predictions by batch size, with peak memory.

python benchmarks/throughput.py --out benchmarks/results/throughput.json
"""

import resource

import common
import torch

import rlnlib
from rlnlib.rln import KINDS, RLN, phase_indicators
from rlnlib.training import training_loss

QUESTION = "Cells a second: training step, data generation, predictions by batch size"


def training_step(kind, stiff, device):
    """One step of the published recipe's parts that cost time: forward, loss over the passes, gradient, Adam."""
    torch.manual_seed(0)
    model = RLN(**KINDS[kind]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    phases, target = phase_indicators(stiff).to(device), torch.ones(len(stiff), 1, *stiff.shape[1:], device=device)

    def step():
        loss = training_loss(model(phases, return_iterates=True), target, "mse")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main():
    options = common.parse(__doc__, size=16, cells=16, batches=(1, 2, 4, 16, 64, 256), repeats=3)
    stiff = torch.from_numpy(rlnlib.generate_cells(max(options.batches), size=options.size, seed=0))
    some = stiff[: options.cells]
    steps = {f"training step, {kind}": training_step(kind, some, options.device) for kind in KINDS}
    generation = {
        f"data generation, contrast {k:g}": lambda k=k: rlnlib.solve_strain(
            rlnlib.generate_cells(options.cells, size=options.size, seed=0), k, rtol=1e-4, device=options.device
        )
        for k in (10.0, 50.0)
    }
    model = rlnlib.load_pretrained("rln", 10.0)
    predictions = {
        f"prediction, batch {n}": lambda n=n: rlnlib.predict_strain(model, stiff[:n], n, device=options.device)
        for n in options.batches
    }
    seconds = common.measure({**steps, **generation}, options.repeats, options.device)
    rates = {name: common.summary(s, options.cells) for name, s in seconds.items()}
    memory = {}
    for n, (name, side) in zip(options.batches, predictions.items(), strict=True):  # from small to large
        seconds = common.measure({name: side}, options.repeats, options.device)
        rates[name] = common.summary(seconds[name], n)
        gpu = options.device == "cuda"
        # A process only ever reports its peak, which is why the batches grow.
        peak = torch.cuda.max_memory_allocated() if gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        memory[name] = round(peak / 2**20)
    common.write(QUESTION, options, {"cells_per_second": rates, "peak_mebibytes_of_the_process_so_far": memory})


if __name__ == "__main__":
    main()
