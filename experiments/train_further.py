"""Go on training a shipped network, on more cells or on larger ones: so the RLN for 16^3 became "rln-further" for 31^3.

    python -m rlnlib.dataset make --n 4800 --size 31 --repeats 1 --contrast 10 --seed 31 train.h5
    python -m rlnlib.dataset make --n 1250 --size 31 --repeats 1 --contrast 10 --seed 131 other.h5
    python experiments/train_further.py --contrast 10 --train train.h5 --data other.h5 --minutes 120 \\
        --run runs/rln-further-10-31
    python experiments/ship.py --run runs/rln-further-10-31 --data other.h5 --train-data train.h5 \\
        --after data/pretrained/rln-10.safetensors --kind rln-further --device "CPU, 1 thread"

All cells of --train are trained on; of --data the validation part chooses the best epoch, and the test part is left for
ship.py. The same command goes on after a kill, or after --slice-minutes. On odd sizes, weights for even ones
go on with the V-Net that has no seam there. The last stage of the RLN on 16^3 had batches of 16 cells. Without --kind
the weights would take the place of Table 1's own RLN for 31^3, which ``rlnlib.reproduce`` makes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import rlnlib
from rlnlib import dataset, runs, training
from rlnlib.rln import KINDS
from rlnlib.weight_files import DEFAULT_SIZE


def recipe(passes: int, minutes: float, batch_size: int, precision: str) -> training.TrainingConfig:
    """The mean absolute error, by which a network is judged, with weight on the passes that end nearest to it."""
    weights = (0.5, 0.5, 0.5, 1.0, 2.0) if passes == 5 else None
    return training.TrainingConfig(
        epochs=1000,  # the minutes end it
        batch_size=batch_size,
        learning_rate=1e-3,
        loss="mae",
        pass_weights=weights,
        augment=True,
        precision=precision,
        max_minutes=minutes,
        warm_up=0.03,
        seed=7,
        checkpoint_minutes=4.0,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(KINDS), default="rln")
    parser.add_argument("--contrast", type=float, required=True)
    parser.add_argument("--size", type=int, default=DEFAULT_SIZE, help="of the cells that the shipped weights are for")
    parser.add_argument("--train", type=Path, required=True, help="a data set, of which all cells are trained on")
    parser.add_argument("--data", type=Path, required=True, help="another one, whose validation part is used")
    parser.add_argument("--validation-cells", type=int, default=96, help="of them")
    parser.add_argument("--minutes", type=float, required=True, help="of the whole training")
    parser.add_argument("--slice-minutes", type=float, help="of this call")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoints")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for path in (options.train, options.data):
        if (made_with := dataset.read_parameters(path).contrast) != options.contrast:
            parser.error(f"{path} is of contrast {made_with:g}, not {options.contrast:g}: a network holds for one.")
    held_out = tuple(
        field[: options.validation_cells] for field in dataset.StrainDataset(options.data, "validation").tensors()
    )
    model = rlnlib.load_pretrained(options.kind, options.contrast, options.size)
    if dataset.read_parameters(options.train).size % 2:
        model = model.with_options(proximal="vnet-periodic")
    config = recipe(model.passes, options.minutes, options.batch_size, training.fast_precision(options.device))
    try:
        learning_curve = runs.train(
            model.train(),
            dataset.StrainDataset(options.train),
            held_out,
            config,
            options.run,
            options.device,
            progress=True,
            slice_minutes=options.slice_minutes,
        )
    except runs.Unfinished as unfinished:
        print(unfinished)
    else:
        for row in learning_curve:
            print(f"after {row['seconds'] / 60:.0f} minutes {row['validation_mase']:.2f} % on {len(held_out[0])} cells")


if __name__ == "__main__":
    main()
