"""Table 1 within minutes: the six networks of `reproduce --profile table-1` side by side on one GPU.

    python experiments/table_1_side_by_side.py --out runs/table-1 --minutes 8
    python -m rlnlib.reproduce --profile table-1 --out runs/table-1      prints the table, and makes what is left

Cells, recipes, weights at the start and order of the batches are those of `reproduce`; a GPU in place of a CPU rounds
otherwise, and its networks differ as those of two seeds do. One small network keeps neither the GPU nor a core busy, so
each has a process, in which the work of a step is recorded once and played back (``recorded.py``), and cells are padded
by one gather (``gathered.py``). Where NVIDIA's MPS serves the GPU (`nvidia-cuda-mps-control -d`), kernels of different
processes run at the same time. --profile ci --device cpu shows that the script works.

With --minutes, a stage that would not end in its share of the time is ended by it, and its learning rate falls to zero
all the same: the small cells have 42 % of what is left when they begin, the large ones the rest but for the scoring.
The weights that are shipped for 31^3 were made so, in 8 minutes: the networks of one pass ended both stages; those of
five passes made five rounds of eight on the small cells and a part of the sixth, and the last round on the large ones
was cut a little short. Their recipes say so by ``max_minutes``.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import torch

import gathered
from recorded import Recorded
from rlnlib import dataset, reproduce, runs, training

#: Of the time of a network: the share of the small cells, up to this size, and seconds for scoring.
SMALL_SHARE, SMALL, SCORING = 0.42, 16, 42.0


def recorded_gradient(plain=training.gradient):
    """What takes the place of :func:`rlnlib.training.gradient`: the same, recorded for each shape of a batch."""
    recorded: dict = {}

    def gradient(model, fabric, indicators, target, config):
        key = (id(model), indicators.shape)
        if key not in recorded:
            weights = config.pass_weights and torch.tensor(config.pass_weights, device=target.device)
            on_device = argparse.Namespace(loss=config.loss, pass_weights=weights)

            def work(indicators, target):
                return plain(model, fabric, indicators, target, on_device)

            recorded[key] = Recorded(work, (indicators, target), model.parameters())
        return recorded[key](indicators, target)

    return gradient


def make_data(profile: reproduce.Profile, out: Path, contrast: float, device: str) -> None:
    """The data sets of a contrast, small cells first, as :mod:`rlnlib.reproduce` names them."""
    for stage in profile.stages:
        file = reproduce.data_file(profile, stage, out, contrast)
        dataset.make_dataset(file, **stage.data, contrast=contrast, device=device)


def wait_for(path, **parameters) -> Path:
    """The file of a data set that another process makes; it appears when it is complete."""
    while not Path(path).exists():
        time.sleep(0.2)
    return Path(path)


def ended_by(deadline: float):
    """What takes the place of :func:`rlnlib.runs.train`: the same, with a stage's share of the time until then."""
    plain = runs.train

    def train(model, train_set, validation_set, config, folder, device, progress, slice_minutes):
        left = deadline - SCORING - time.monotonic()
        share = left if len(train_set.fields[0][0]) > SMALL else SMALL_SHARE * left
        config = replace(config, max_minutes=max(0.1, share / 60), checkpoint_minutes=0.7)
        return plain(model, train_set, validation_set, config, folder, device, progress, slice_minutes)

    return train


def train(profile: reproduce.Profile, out: Path, kind: str, contrast: float, device: str, deadline: float) -> None:
    """Train and score one network, in a process of its own."""
    torch.set_num_threads(2)
    torch.backends.cudnn.benchmark = True
    gathered.use()
    training.gradient, dataset.make_dataset = recorded_gradient(), wait_for  # type: ignore[assignment]
    if deadline < math.inf:
        runs.train = ended_by(deadline)
    try:
        reproduce.network(profile, out, kind, contrast, device, deadline)
    except reproduce.Left as pause:
        print(f"{kind}-{contrast:g} is left: {pause.doing}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--profile", choices=reproduce.PROFILES, default="table-1")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is here. --device cpu --profile ci shows that the script works.")
    deadline = time.monotonic() + 60 * options.minutes
    profile, out = reproduce.PROFILES[options.profile], options.out
    out.mkdir(parents=True, exist_ok=True)
    begin = multiprocessing.get_context("spawn").Process
    work = [begin(target=make_data, args=(profile, out, contrast, options.device)) for contrast in reproduce.CONTRASTS]
    work += [
        begin(target=train, args=(profile, out, kind, contrast, options.device, deadline))
        for contrast in reproduce.CONTRASTS
        for kind in reversed(profile.kinds)
    ]
    for process in work:
        process.start()
    for process in work:
        process.join()


if __name__ == "__main__":
    main()
