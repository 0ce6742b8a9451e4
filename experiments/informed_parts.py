"""What brings what in the informed network? One short training, many times, with one part of it replaced.

    python experiments/informed_parts.py --out data/results/informed_parts.json
    python experiments/informed_parts.py --cases baseline labels --out ...     some of them
    python experiments/informed_parts.py --max-minutes 30 --out ...            again and again, until none is left

Cells of 10^3, contrast 1 to 100, an axial load, 300 steps of 8 cells: enough to see a direction and its spread over
the seeds, too little to quote as the error of a network. All trainings of one seed see the same cells in the same
order. What stands in the folder is not made again, a training that was cut off goes on from its checkpoint, and the
last line says what is left.

Fixed on 2026-11-26, before the first result. The number is the MASE of strain_xx after the last pass, on 96 fresh cells
of 10^3 at contrast 50. A part helps where taking it away raises the number for every seed, of at least two; it harms
where that lowers it for every seed; else it is undecided. Expected: the residual helps; labels are no better than the
energy at equal cells; of answers, none; three layers and fewer channels lose accuracy; five passes are better than
three. Beside it stand, without a criterion: contrast 10, the error of the effective stiffness, the same weights on
12 cells of 20^3, the error by pass, and processor seconds.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

import rlnlib
import train_informed
from measured import axial_cells
from rlnlib import informed, networks, provenance
from rlnlib._files import write_atomically
from rlnlib.provenance import significant


@dataclass(frozen=True)
class Case:
    """What differs from the baseline: options of the network, of the recipe, and other networks in the passes."""

    network: dict = field(default_factory=dict)
    recipe: dict = field(default_factory=dict)
    proximal: Callable[[int, int], nn.Module] | None = None


def narrow(inputs: int, outputs: int) -> nn.Module:
    """The V-Net with half the channels: a quarter of the weights."""
    return networks.PeriodicVNet(inputs, outputs, width=8, low_width=16)


CASES = {
    "baseline": Case(),
    "without the residual": Case({"residual": "none"}),
    "relative residual": Case({"residual": "relative"}),
    "polarization": Case({"answer": "polarization"}),
    "polarization, relative residual": Case({"answer": "polarization", "residual": "relative"}),
    "labels": Case({}, {"loss": "strain"}),
    "residual as loss": Case({}, {"loss": "residual"}),
    "later passes count more": Case({}, {"pass_weights": [1.0, 2.0, 4.0, 8.0, 16.0]}),
    "three passes": Case({"passes": 3}),
    "half the channels": Case(proximal=narrow),
    "three layers": Case({"proximal": "three-layer"}),
    "tied passes": Case({"tied": True}),
    "all three": Case({"answer": "polarization", "residual": "relative"}, {"pass_weights": [1.0, 2.0, 4.0, 8.0, 16.0]}),
}
RECIPE = {
    **train_informed.RECIPE,
    **{"size": 10, "cells": 1024, "largest_contrast": 100.0, "axial": 1.0, "many_phases": 0.0, "random_poisson": 0.0},
    "validate_every": 0,
}


class Replaced(informed.InformedRLN):
    """An informed network with networks of one's own in its passes."""

    def __init__(self, make: Callable[[int, int], nn.Module], **options):
        super().__init__(**options)
        inputs = next(self.proximals.parameters()).shape[1]
        self.proximals = nn.ModuleList(make(inputs, 3) for _ in self.proximals)
        for network in self.proximals:
            informed.start_at_zero(network)


@torch.no_grad()
def scores(model: informed.InformedRLN, sets) -> dict:
    """Mean errors in percent on each set; by pass for the first one."""
    found = {}
    for name, (stiff, contrast, strain, stiffness) in sets.items():
        cells = axial_cells(stiff, contrast)
        softest = torch.where(stiff.flatten(1).all(1), contrast, 1.0)
        iterates = model(cells, return_iterates=True)
        by_pass = [float(rlnlib.mase(cells.strain(u)[:, 0], strain).mean()) for u in iterates]
        above = 100 * (2 * cells.energy(iterates[-1]) * softest / stiffness - 1).mean()
        found[name] = {"mase": [significant(e) for e in by_pass], "stiffness_error": significant(float(above))}
    return found


def test_sets() -> dict:
    """Name: cells, contrast, true strain_xx, true stiffness."""
    sets = {}
    for name, count, size, contrast in (
        ("10, contrast 50", 96, 10, 50.0),
        ("10, contrast 10", 96, 10, 10.0),
        ("20, contrast 50", 12, 20, 50.0),
    ):
        stiff = train_informed.random_cells(count, size, seed=70)
        truth = rlnlib.solve_strain(stiff, contrast, rtol=1e-5)
        sets[name] = stiff, contrast, truth.strain[:, 0], truth.effective_stress[:, 0]
    return sets


def verdicts(runs: list[dict]) -> dict:
    """Of each case over the baseline, seed by seed: the ratio of the numbers, and what follows by the criterion."""
    number = {(run["case"], run["seed"]): run["scores"]["10, contrast 50"]["mase"][-1] for run in runs}
    found = {}
    for name in CASES:
        seeds = [seed for case, seed in number if case == name and ("baseline", seed) in number]
        ratios = [significant(number[name, seed] / number["baseline", seed]) for seed in seeds]
        word = "undecided"
        if name != "baseline" and len(ratios) >= 2:
            word = "worse" if min(ratios) > 1 else "better" if max(ratios) < 1 else word
            found[name] = {"over the baseline": ratios, "than the baseline": word}
    return found


def main():
    options = provenance.parse(__doc__, cases=("all",), seeds=3, steps=300, max_minutes=0.0, folder="runs/parts")
    wanted = [*CASES] if list(options.cases) == ["all"] else options.cases
    sets, runs, left = None, [], []
    entered = time.monotonic()
    for seed, name in itertools.product(range(options.seeds), CASES):
        folder = Path(options.folder) / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
        file, case = folder / "result.json", CASES[name]
        in_time = not options.max_minutes or time.monotonic() - entered < 60 * options.max_minutes
        if not file.exists() and name in wanted and in_time:
            sets = sets or test_sets()
            recipe = {**RECIPE, "steps": options.steps, "seed": seed, **case.recipe}
            make = None if case.proximal is None else lambda made=case.proximal, **options: Replaced(made, **options)
            before = time.process_time()
            model = train_informed.train(folder, recipe, {**train_informed.NETWORK, **case.network}, make=make)
            run = {"case": name, "seed": seed, "parameters": sum(p.numel() for p in model.parameters())}
            run |= {"processor_seconds": round(time.process_time() - before), "scores": scores(model, sets)}
            write_atomically(file, json.dumps({"steps": options.steps, "run": run}).encode())
            print(run, flush=True)
        if file.exists():
            known = json.loads(file.read_text(encoding="utf-8"))
            if known["steps"] != options.steps:
                raise OSError(f"{folder} was made with {known['steps']} steps: choose another --folder.")
            runs.append(known["run"])
        else:
            left.append(f"{name}, seed {seed}")
    found = {"left": left, "verdicts": verdicts(runs), "runs": runs}
    provenance.write_record("What brings what in the informed network?", options, found)
    print(f"Left: {'; '.join(left)}. Run the same command again to go on." if left else "Complete.")


if __name__ == "__main__":
    main()
