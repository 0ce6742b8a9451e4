"""What do the parts of the recipe change? One short training, many times, with one part of it replaced.

    python experiments/ablation.py --out data/results/ablation.json     all cases
    python experiments/ablation.py --cases baseline ReLU --out ...      some of them
    python experiments/ablation.py --max-minutes 30 --out ...           again and again, until none is left

Cells of 16^3 at contrast 50, 1,024 of them for 12 epochs: enough to see a direction and its spread over the seeds, too
little to quote as the error of a network. All trainings of one seed see the same batches, and begin with the same
weights up to the first layer that differs in shape. What the record or the folder holds with the same settings is not
made again, a training that was cut off goes on from its checkpoint, and the last line says what is left. Trainings are
in the precision that is fast on the machine, or in --precision ("32-true" or "bf16-mixed"); each run says which, and
only runs in one precision are compared with each other.

What counts as holding was fixed in ``book/claims.yml`` before these runs: of most statements, that one error is above
another for every seed. So an effect is a ratio of two errors of one seed, and the record holds its mean over the seeds.
Two seeds agree easily on a ratio of 1.003, which says nothing of a choice. So a ratio counts from 2 % beyond its bound,
on either side: the record's interval reaches 2 % beyond the lowest and the highest of the seeds, and a statement whose
bound lies within it stays undecided. (This rule is younger than the first runs; ``book/claims.yml`` says where it
changed a status.) Symmetry copies are not the paper's; they help where the test error without them is higher for every
seed.

- error: MASE on test cells, of the best epoch. At half: on validation cells, after half of the epochs.
- peaks: mean absolute error in each cell's hundredth of highest strains.
- unsteadiness: mean over the epochs of the percent by which the validation error rises, a fall counted as 0.
- step: what a V-Net that was taught one step of Moulinec's scheme leaves of it, in percent; see ``taught_a_step``.
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
from measured import Effect, claim, of_seeds
from rlnlib import lippmann_schwinger, networks, provenance, rln, runs, training
from rlnlib._files import write_atomically
from rlnlib.rln import KINDS
from rlnlib.runs import Unfinished


def vnet_with_relu(inputs: int) -> networks.VNet:
    """The V-Net with ReLU in the place of each PReLU; its convolutions start with the same weights."""
    network = networks.VNet(inputs)
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, networks.PReLU):
                setattr(parent, name, nn.ReLU())
    return network


class Beside(nn.Module):
    """The sum of two layers on one input."""

    def __init__(self, one: nn.Module, other: nn.Module):
        super().__init__()
        self.one, self.other = one, other

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        return self.one(field) + self.other(field)


class Fourier(nn.Module):
    """Each channel multiplied by a number of its own at each of the lowest ``modes`` frequencies an axis."""

    def __init__(self, channels: int, modes: int = 8):
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(torch.zeros(channels, modes, modes, modes // 2 + 1, 2))

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        axes, shape = (-3, -2, -1), field.shape[-3:]
        with torch.autocast(field.device.type, enabled=False):
            spectrum = torch.fft.rfftn(field.float(), dim=axes)
            kept = torch.zeros_like(spectrum)
            low, high = self.modes // 2, self.modes - self.modes // 2
            ends = (slice(0, high), slice(-low, None))
            factor = torch.view_as_complex(self.weight)
            last = slice(0, min(self.modes // 2 + 1, spectrum.shape[-1]))  # of a small field there are fewer
            for i, j in itertools.product(ends, repeat=2):
                box = (..., i, j, last)
                kept[box] = spectrum[box] * factor[box]
            return torch.fft.irfftn(kept, s=shape, dim=axes)


def vnet_with_fourier_layer(inputs: int) -> networks.VNet:
    """The V-Net with a Fourier layer beside the convolutions of half resolution; at first it adds nothing."""
    network = networks.VNet(inputs)
    network.low = nn.Sequential(Beside(network.low, Fourier(32)))
    return network


def vnet_with_two_filter_sizes(inputs: int) -> networks.VNet:
    """The V-Net with a convolution of 5 x 5 x 5 beside its second one."""
    network = networks.VNet(inputs)
    wide = nn.Conv3d(16, 16, 5, padding=2, padding_mode="circular")
    network.begin[2] = Beside(network.begin[2], wide)
    return network


class LatentRLN(rlnlib.RLN):
    """An RLN-t whose passes hand on a hidden state of 16 channels by a gate, in place of earlier iterates."""

    def __init__(self, channels: int = 16):
        super().__init__(passes=5, tied=True, history=0, proximal="vnet")
        self.channels = channels
        self.proximals[0] = networks.VNet(2 + channels, 1 + 2 * channels)

    def forward(self, indicators: torch.Tensor, return_iterates: bool = False):
        y, iterates = torch.ones_like(indicators[:, :1]), []
        hidden = torch.zeros_like(y).expand(-1, self.channels, -1, -1, -1)
        for _ in range(self.passes):
            out = self.proximals[0](torch.cat([indicators * y, hidden], 1))
            change, gate = out[:, 1:].chunk(2, 1)
            hidden = hidden + torch.sigmoid(gate) * (torch.tanh(change) - hidden)
            y = 1 + out[:, :1] - out[:, :1].mean(self.mean_axes, keepdim=True)
            iterates.append(y)
        return iterates if return_iterates else y


@dataclass(frozen=True)
class Case:
    """One change: how the model is made, and what differs in the recipe."""

    model: Callable[[], rlnlib.RLN]
    recipe: dict = field(default_factory=dict)


def fln(proximal="vnet"):
    return lambda: rlnlib.RLN(**KINDS["fln"], proximal=proximal)


def tied(proximal="vnet", **options):
    return lambda: rlnlib.RLN(**{**KINDS["rln-t"], **options}, proximal=proximal)


CASES = {
    "baseline": Case(fln()),
    "RLN-t": Case(tied()),
    "RLN-t of three layers": Case(tied("three-layer")),
    "RLN-t, last pass only": Case(tied(), {"pass_weights": (1e-6, 1e-6, 1e-6, 1e-6, 5.0)}),
    "RLN-t, rising weights": Case(tied(), {"pass_weights": (0.5, 0.5, 0.5, 1.0, 2.0)}),
    "RLN-t of 8 passes": Case(tied(passes=8)),
    "RLN-t of 3 passes": Case(tied(passes=3)),
    "RLN-t without history": Case(tied(history=0)),
    "RLN-t with a hidden state": Case(LatentRLN),
    "ReLU": Case(fln(vnet_with_relu)),
    "constant rate": Case(fln(), {"final_learning_rate": 2e-3}),
    "learning rate 5e-4": Case(fln(), {"learning_rate": 5e-4}),
    "learning rate 8e-3": Case(fln(), {"learning_rate": 8e-3}),
    "no symmetry copies": Case(fln(), {"augment": False}),
    "mean square error": Case(fln(), {"loss": "mse"}),
    "mean absolute error": Case(fln(), {"loss": "mae"}),
    "one block more": Case(fln("vnet-160k")),
    "two filter sizes": Case(fln(vnet_with_two_filter_sizes)),
    "Fourier layer": Case(fln(vnet_with_fourier_layer)),
}
STEP = "step of Moulinec"
#: Fewer trainings than these decide no statement.
LEAST_SEEDS = 2
#: One unit of the last digit that a run records.
ROUNDING = 1e-3
#: A ratio of two trainings counts from so far beyond its bound.
SMALLEST = 1.02

#: Claim: (the number, of which case, over that of which case; of "unsteadiness" less that).
RATIOS = {
    "three-layers-work": ("error", "RLN-t of three layers", "RLN-t"),
    "v-net-best": ("error", "RLN-t of three layers", "RLN-t"),
    "rln-t-trains-faster-than-fln": ("half", "baseline", "RLN-t"),
    "five-passes-suffice": ("error", "RLN-t of 8 passes", "RLN-t"),
    "history-helps": ("error", "RLN-t without history", "RLN-t"),
    "latent-state-helps": ("error", "RLN-t", "RLN-t with a hidden state"),
    "last-pass-only-is-slower": ("half", "RLN-t, last pass only", "RLN-t"),
    "last-pass-only-is-worse": ("error", "RLN-t, last pass only", "RLN-t"),
    "uniform-weights-cost-accuracy": ("error", "RLN-t", "RLN-t, last pass only"),
    "pass-weights-regularize": ("gap", "RLN-t, last pass only", "RLN-t"),
    "gradual-weights-end-better": ("error", "RLN-t", "RLN-t, rising weights"),
    "other-weighting-fine-scale": ("peaks", "RLN-t", "RLN-t, rising weights"),
    "prelu-helps": ("error", "ReLU", "baseline"),
    "prelu-steadier": ("unsteadiness", "ReLU", "baseline"),
    "cosine-decay-matters": ("error", "constant rate", "baseline"),
    "cosine-decay-smooth": ("unsteadiness", "constant rate", "baseline"),
    "mse-magnifies-peaks": ("peaks over error", "mean absolute error", "mean square error"),
    "deeper-captures-peaks": ("peaks", "baseline", "one block more"),
    "filter-sizes-capture-peaks": ("peaks", "baseline", "two filter sizes"),
    "fourier-layers-help": ("error", "baseline", "Fourier layer"),
}
RATES = ("learning rate 5e-4", "baseline", "learning rate 8e-3")


def unsteadiness(errors: list[float]) -> float:
    """By how many percent the validation error rises from one epoch to the next, a fall counted as 0: the mean."""
    rises = [max(0.0, 100 * (new / old - 1)) for old, new in itertools.pairwise(errors)]
    return sum(rises) / len(rises)


def numbers(run: dict) -> dict[str, float]:
    """What a run is compared by; a run without a record of the peaks has none."""
    found = {"error": run["test_mase"], "gap": run["test_mase"] / run["training_mase"]}
    found["half"] = run["validation_mase"][len(run["validation_mase"]) // 2 - 1]
    found["unsteadiness"] = run["unsteadiness"]
    if "test_peaks" in run:
        found |= {"peaks": run["test_peaks"], "peaks over error": run["test_peaks"] / run["test_mase"]}
    return found


def of_run(run: dict) -> tuple[int, str]:
    """What two runs must share to be compared: seed and precision."""
    return run["seed"], run["precision"]


def of_ratios(ratios: list[float]) -> Effect:
    """The mean over the seeds, and an interval that reaches ``SMALLEST`` beyond the lowest and the highest."""
    value, low, high = of_seeds(ratios)
    return value, low / SMALLEST, high * SMALLEST


def claims(runs: list[dict], settings: dict) -> list[dict]:
    """The measurements that the runs made so far give, of seeds that both sides of a comparison have."""
    found = {(run["variant"], of_run(run)): numbers(run) for run in runs if run["variant"] != STEP}
    seeds = {name: [seed for variant, seed in found if variant == name] for name, _ in found}

    def conditions(of):
        about = {"size": settings["size"], "cells": settings["test"], "contrasts": [settings["contrast"]]}
        note = f"{settings['epochs']} epochs on {settings['train']} cells"
        return {**about, "data": "design", "training": "experiment", "seeds": len(of), "note": note}

    measured = []
    for name, (key, over, under) in RATIOS.items():
        both = [seed for seed in seeds.get(over, []) if seed in seeds.get(under, [])]
        if len(both) >= LEAST_SEEDS and all(key in found[side, seed] for side in (over, under) for seed in both):
            pairs = [(found[over, seed][key], found[under, seed][key]) for seed in both]
            if key == "unsteadiness":  # may be 0 on either side: a difference, which rounding may change by one unit
                value, low, high = of_seeds([a - b for a, b in pairs])
                effect = (value, low - ROUNDING, high + ROUNDING)
            else:
                effect = of_ratios([a / b for a, b in pairs])
            measured.append(claim(name, effect, **conditions(both)))
    if len(both := seeds.get("baseline", [])) >= LEAST_SEEDS:
        measured.append(
            claim("losses-coupled", of_ratios([found["baseline", seed]["gap"] for seed in both]), **conditions(both))
        )
    if all(name in seeds for name in RATES):
        both = [seed for seed in seeds[RATES[0]] if all(seed in seeds[name] for name in RATES)]
        errors = [[found[name, seed]["error"] for name in RATES] for seed in both]
        if len(both) >= LEAST_SEEDS:
            effect = of_ratios([max(of) / min(of) for of in errors])
            measured.append(claim("learning-rate-sensitive", effect, **conditions(both)))
    steps = [run["left_percent"] for run in runs if run["variant"] == STEP]
    if len(steps) >= LEAST_SEEDS:
        measured.append(claim("network-emulates-a-step", of_seeds(steps), **conditions(steps)))
    return measured


def trained(case: Case, seed: int, precision: str, sets, options, folder: Path, slice_minutes: float | None) -> dict:
    """One training and what came out. Raises Unfinished when its time is up."""
    torch.manual_seed(seed)
    model = case.model()
    recipe = {"batch_size": 16, "loss": "rmse", "augment": True, "precision": precision}
    config = training.TrainingConfig(epochs=options.epochs, seed=seed, **{**recipe, **case.recipe})
    train_set, validation_set, (stiff, true) = sets
    learning_curve = runs.train(
        model, train_set, validation_set, config, folder, device="cpu", slice_minutes=slice_minutes
    )
    predicted = rlnlib.predict_strain(model, stiff)
    peaks = true >= true.flatten(1).quantile(0.99, 1)[:, None, None, None]
    validation = [round(row["validation_mase"], 3) for row in learning_curve]
    own = rlnlib.mase(rlnlib.predict_strain(model, train_set[0]), train_set[1])
    return {
        "test_mase": round(float(rlnlib.mase(predicted, true).mean()), 3),
        "test_peaks": round(100 * float((predicted - true)[peaks].abs().mean()), 3),
        "training_mase": round(float(own.mean()), 3),
        "unsteadiness": round(unsteadiness(validation), 3),
        "validation_mase": validation,
        "seconds": round(learning_curve[-1]["seconds"]),
    }


def taught_a_step(seed: int, precision: str, sets, options) -> dict:
    """A V-Net taught -Gamma * (m y), strain xx of it, from m y for the iterates y of Moulinec's scheme.

    The input has the six strains of either phase, of the start or one of the first four iterates, drawn for each cell.
    What is left of the step on new cells is the mean absolute error over the mean absolute step, in percent.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = networks.VNet(12)

    def pairs(cells):
        inputs, targets = [], []
        for part in cells.split(64):
            equation = lippmann_schwinger.elastic_equation(part, options.contrast, discretization="rotated")
            y, passes = equation.reference, torch.randint(0, 5, (len(part),), generator=generator)
            for k in range(4):
                y = torch.where((passes > k).view(-1, 1, 1, 1, 1, 1), equation.phi(y), y)
            indicators = rln.phase_indicators(part)  # (B, 2, N, N, N)
            inputs.append((indicators[:, :, None] * y.float()).flatten(1, 2))  # (B, 12, N, N, N)
            targets.append(equation.perturbation(y)[:, 0, :1].float())
        return torch.cat(inputs), torch.cat(targets)

    (fields, steps), (new, wanted) = pairs(sets[0][0]), pairs(sets[2][0])
    batches = len(fields) // 16
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * batches)
    for _ in range(options.epochs):
        for chosen in torch.randperm(len(fields), generator=generator)[: 16 * batches].view(batches, 16):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                out = network(fields[chosen])
            loss = (out.float() - steps[chosen]).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        left = sum(
            float((network(part) - true).abs().sum())
            for part, true in zip(new.split(16), wanted.split(16), strict=True)
        )
    return {"left_percent": round(100 * left / float(wanted.abs().sum()), 3)}


def made_before(record: Path | None, settings: dict) -> list[dict]:
    """The runs that a record holds, if they were made with the same settings."""
    held = json.loads(record.read_text(encoding="utf-8")) if record and record.exists() else {}
    if any(held.get("settings", {}).get(name) != value for name, value in settings.items()):
        return []
    return held["runs"]


def main():
    options = provenance.parse(
        __doc__,
        cases=("all",),
        train=1024,
        validation=256,
        test=512,
        size=16,
        contrast=50.0,
        epochs=12,
        seeds=3,
        max_minutes=0.0,
        precision="",
        folder="runs/ablation",
    )
    torch.set_num_threads(1)
    wanted = [*CASES, STEP] if options.cases in (["all"], ("all",)) else options.cases
    counts = [options.train, options.validation, options.test]
    cells = rlnlib.generate_cells(sum(counts), size=options.size, grain_size=(1, min(10, options.size // 2)), seed=7)
    strain = rlnlib.solve_strain(cells, options.contrast, rtol=1e-4).strain[:, 0].float()
    sets = list(zip(torch.from_numpy(cells).split(counts), strain.split(counts), strict=True))
    settings = {name: getattr(options, name) for name in ("train", "test", "size", "contrast", "epochs")}
    entered, left = time.monotonic(), []
    precision = options.precision or training.fast_precision("cpu")
    runs = made_before(options.out, settings)
    for seed, name in itertools.product(range(options.seeds), [*CASES, STEP]):
        of_case = [run for run in runs if (run["variant"], run["seed"]) == (name, seed)]
        if any(run["precision"] == precision or not options.precision for run in of_case):
            continue
        folder = Path(options.folder) / f"{name.replace(' ', '-').replace(',', '')}-{seed}-{precision}"
        file = folder / "result.json"
        minutes = options.max_minutes - (time.monotonic() - entered) / 60 if options.max_minutes else None
        if not file.exists() and name in wanted and (minutes is None or minutes > 0):
            try:
                made = (
                    taught_a_step(seed, precision, sets, options)
                    if name == STEP
                    else trained(CASES[name], seed, precision, sets, options, folder, minutes)
                )
                run = {"variant": name, "seed": seed, "precision": precision, **made}
                write_atomically(file, json.dumps({"settings": settings, "run": run}).encode())
                print(run, flush=True)
            except Unfinished as pause:
                print(f"{name}, seed {seed}: {pause}", flush=True)
        if file.exists():
            known = json.loads(file.read_text(encoding="utf-8"))
            if known["settings"] != settings:
                raise OSError(f"{folder} was made with {known['settings']}: choose another --folder.")
            runs.append(known["run"])
        elif not of_case:
            left.append(f"{name}, seed {seed}")
    places = [*CASES, STEP]
    runs.sort(key=lambda run: (run["seed"], places.index(run["variant"]), run["precision"]))
    del options.precision  # each run says it
    found = {"left": left, "runs": runs, "claims": claims(runs, settings)}
    provenance.write_record("What do the parts of the recipe change?", options, found)
    print(f"Left: {'; '.join(left)}. Run the same command again to go on." if left else "Complete.")


if __name__ == "__main__":
    main()
