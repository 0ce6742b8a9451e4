"""How far does the paper's comparison model get on our cells, and how far is the RLN on the same ones?

    python experiments/comparison_model.py --contrasts 50 10 --minutes 20 --out data/results/comparison_model.json
    python experiments/comparison_model.py --contrasts 50 10 --minutes 20 --max-minutes 5      a part; again to go on

The model of reference [22] predicts one voxel at a time from the 11^3 voxels around it: two plane convolutions, with
the third axis as channels, and three dense layers, 28,099,329 weights. It is trained on patches around random voxels of
the training cells of a data set of 21^3, as [22] had, for --minutes of one core's time, in the last two fifths of
which the learning rate falls. The record says how many patches were seen; [22] trained on a GPU. Scored are whole test
cells of 21^3 and fresh ones of 31^3, beside the RLN whose training went on at 31^3 ("rln-further") on the same cells.
--folder keeps what is done; the same command goes on after a kill, or after --max-minutes. Until the rate falls
--minutes may still be changed: the training is then the same as if they had been so from the start.

Fixed before the first run: the RLN errs at most two thirds as much as this model on the cells of 31^3, in the mean and
in the deviation, at both contrasts (the paper: "roughly half"). Trained for longer, the model would err less.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import rlnlib
from measured import bootstrap, claim, most, ratio
from rlnlib import dataset, metrics, provenance, runs, training
from rlnlib._files import write_atomically

REACH = 5  # voxels that a patch extends on either side
EDGE = 2 * REACH + 1
#: The shipped RLN beside it. That of Table 1 for 31^3 is "rln", and errs less.
RLN = "rln-further"
#: Seconds of one core between two checkpoints, which also say how far the model is.
PAUSE = 60.0
#: The learning rate rises over so many steps, and falls from this part of the time on.
RISE, FALL = 100, 0.6


class ComparisonModel(nn.Module):
    """Strain of a voxel from the patch around it. Shape: (B, 11, 11, 11), 0 or 1 -> (B,)."""

    def __init__(self, channels=(128, 256), dense=(2048, 1024)):
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(EDGE, channels[0], 3), nn.Conv2d(*channels, 3)])
        layers = (channels[1] * 7 * 7, *dense, 1)
        self.dense = nn.ModuleList(nn.Linear(*sizes) for sizes in itertools.pairwise(layers))
        for layer in (*self.convolutions, *self.dense[:2]):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        x = (patches - 0.5).permute(0, 3, 1, 2)  # the third axis as channels
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        x = x.flatten(1)
        for layer in self.dense[:2]:
            x = F.relu(layer(x))
        return self.last(x)

    def last(self, x: torch.Tensor) -> torch.Tensor:
        """The strain beside the macroscopic one, in float32. Shape: (..., dense[1]) -> (...)."""
        with torch.autocast("cpu", enabled=False):
            return 1 + self.dense[2](x.float())[..., 0]

    def field(self, cell: torch.Tensor) -> torch.Tensor:
        """All voxels of a periodic cell, whose patches share the convolutions. Shape: (N, N, N) -> the same."""
        n = len(cell)
        around = torch.arange(-REACH, n + REACH) % n
        layers = (cell.float() - 0.5)[around][:, around][:, :, around]  # (N + 10, N + 10, N + 10)
        planes = layers.unfold(2, EDGE, 1).permute(2, 3, 0, 1)  # (N, 11, N + 10, N + 10)
        fields = []
        for x in planes.split(4):
            x = x.contiguous(memory_format=torch.channels_last)
            for convolution in self.convolutions:
                x = F.relu(convolution(x))
            x = F.relu(F.conv2d(x, self.dense[0].weight.unflatten(1, (-1, 7, 7)), self.dense[0].bias))
            x = x.permute(0, 2, 3, 1)  # (planes, N, N, 2048)
            fields.append(self.last(F.relu(self.dense[1](x))))
        return torch.cat(fields).permute(1, 2, 0)


def patches(cells: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
    """The periodic neighbourhoods of voxels. Shape: (n, N, N, N), (B, 4): cell and place -> (B, 11, 11, 11)."""
    reach = torch.arange(-REACH, REACH + 1)
    x, y, z = ((voxels[:, axis, None] + reach) % cells.shape[axis] for axis in (1, 2, 3))
    return cells[voxels[:, 0, None, None, None], x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]].float()


def drawn(cells: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Cells and places of random voxels. Shape: -> (count, 4)."""
    return torch.stack([torch.randint(n, (count,), generator=generator) for n in cells.shape], 1)


def precision():
    """bfloat16 where the processor multiplies it fast."""
    fast = training.fast_precision("cpu") == "bf16-mixed"
    return torch.autocast("cpu", torch.bfloat16, enabled=fast)


@torch.no_grad()
def error_of_patches(model, cells, strain, voxels) -> float:
    """Mean absolute error of voxels, in percent of the macroscopic strain."""
    with precision():
        found = torch.cat([model(patches(cells, part)).float() for part in voxels.split(1024)])
    return 100 * float((found - strain[tuple(voxels.T)]).abs().mean())


def train(data: Path, options, folder: Path, deadline: float) -> tuple[ComparisonModel, dict]:
    """Train as far as the time goes: the model, and where it stands.

    Raises:
        Unfinished: at the deadline, with a checkpoint written.
    """
    torch.manual_seed(options.seed)
    model = ComparisonModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=True)
    recipe = {name: getattr(options, name) for name in ("batch_size", "learning_rate", "seed", "validation")}
    run = {"model": {"parameters": sum(p.numel() for p in model.parameters())}, "config": recipe}
    run["data"] = provenance.described(data)
    state = {"steps": 0, "seconds": 0.0, "minutes": options.minutes, "learning_curve": []}
    if saved := runs.read_matching_checkpoint(folder, run):
        model.load_state_dict(saved["weights"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    if state["minutes"] != options.minutes:
        if state["seconds"] > FALL * 60 * min(options.minutes, state["minutes"]):
            raise ValueError(f"--minutes was {state['minutes']:g}, and the learning rate falls already: keep it.")
        state["minutes"] = options.minutes
    if state["seconds"] >= 60 * options.minutes:
        return model, state
    stiff, strain = dataset.StrainDataset(data, "train").tensors()
    others, true = dataset.StrainDataset(data, "validation").tensors()
    held_out = drawn(others, options.validation, torch.Generator().manual_seed(options.seed))
    folder.mkdir(parents=True, exist_ok=True)
    loss_sum, steps, begun, mark = 0.0, 0, time.process_time(), state["seconds"]
    while True:
        spent = time.process_time() - begun
        done = (mark + spent) / (60 * options.minutes)
        if done >= 1 or spent > PAUSE or time.monotonic() > deadline:
            state["seconds"] = round(mark + spent, 1)
            row = {"steps": state["steps"], "seconds": state["seconds"], "training": loss_sum / max(1, steps)}
            row["validation"] = error_of_patches(model, others, true, held_out)
            state["learning_curve"].append({name: round(value, 3) for name, value in row.items()})
            print(state["learning_curve"][-1], flush=True)
            saved = {**run, "state": state, "weights": model.state_dict(), "optimizer": optimizer.state_dict()}
            runs.write_checkpoint(folder, saved)
            if done >= 1:
                return model, state
            if time.monotonic() > deadline:
                raise runs.Unfinished(done, state["seconds"])
            loss_sum, steps, begun, mark = 0.0, 0, time.process_time(), state["seconds"]  # scoring is no training
        rate = min(1, (state["steps"] + 1) / RISE, (1 - done) / (1 - FALL))
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * rate
        # What is drawn depends on the step alone.
        generator = torch.Generator().manual_seed((options.seed + 1) * 1_000_003 + state["steps"])
        voxels = drawn(stiff, options.batch_size, generator)
        with precision():
            predicted = model(patches(stiff, voxels))
        loss = 100 * (predicted.float() - strain[tuple(voxels.T)]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum, steps, state["steps"] = loss_sum + float(loss.detach()), steps + 1, state["steps"] + 1


def scored(model: ComparisonModel, rln, cells, true, path: Path, deadline: float) -> list[list[float]]:
    """MASE of each cell of the model, of the RLN and of the macroscopic strain. Shape: -> cells x 3.

    Raises:
        Unfinished: at the deadline; what was scored is kept.
    """
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for n in range(len(done), len(cells)):
        if time.monotonic() > deadline:
            raise runs.Unfinished(n / len(cells), 0.0)
        with torch.no_grad(), precision():
            answers = [model.field(cells[n]), rlnlib.predict_strain(rln, cells[n]), torch.ones_like(true[n])]
        done.append([round(float(rlnlib.mase(of[None], true[n][None])), 4) for of in (a.squeeze(0) for a in answers)])
        write_atomically(path, json.dumps(done).encode())
    return done


def drift(model: ComparisonModel, cell: torch.Tensor) -> float:
    """By how much reduced precision changes the answer: mean absolute difference in percent."""
    with torch.no_grad():
        exact = model.field(cell)
        with precision():
            return provenance.significant(100 * float((model.field(cell) - exact).abs().mean()))


def of_contrast(contrast: float, options, deadline: float) -> dict:
    """Train and score at one contrast. Raises Unfinished at the deadline."""
    folder = Path(options.folder) / f"contrast-{contrast:g}"
    made = {"n": options.cells, "size": options.size, "contrast": contrast, "seed": options.seed}
    data = dataset.make_dataset(folder / "data.h5", **made)
    model, state = train(data, options, folder, deadline)
    model.eval()
    rln = rlnlib.load_pretrained(RLN, contrast, 31).with_options(proximal="vnet-periodic")
    row = {
        "contrast": contrast,
        "data": provenance.described(data),
        "training_cells": len(dataset.StrainDataset(data, "train")),
        "patches": state["steps"] * options.batch_size,
        "learning_curve": state["learning_curve"],
        "rln": provenance.weights_used(RLN, contrast, 31),
        "scores": {},
    }
    stiff, true = (field[: options.small] for field in dataset.StrainDataset(data, "test").tensors())
    row["bfloat16_drift_percent"] = drift(model, stiff[0]) if training.fast_precision("cpu") == "bf16-mixed" else 0.0
    large = torch.from_numpy(rlnlib.generate_cells(options.large, size=31, seed=options.seed + 31)).byte()
    sets = {options.size: (stiff, true)}
    sets[31] = large, rlnlib.solve_strain(large, contrast, rtol=1e-4, dtype=torch.float32).strain[:, 0].float()
    for size, (cells, fields) in sets.items():
        errors = scored(model, rln, cells, fields, folder / f"scores-{size}-{len(cells)}.json", deadline)
        columns = dict(zip(("comparison", "rln", "macroscopic_strain"), torch.tensor(errors).T, strict=True))
        row["scores"][f"{size}"] = {
            name: {**metrics.summary(values), "mase": [round(error, 4) for error in values.tolist()]}
            for name, values in columns.items()
        }
    return row


def claims(rows: list[dict]) -> list[dict]:
    """The measurements: rows of Table 1 at 21^3, and the RLN over the model on the same cells of 31^3."""
    measured, effects = [], []
    about = {"data": "design", "training": "experiment"}
    for row in rows:
        note = f"trained on {row['patches']:,} patches of {row['training_cells']:,} cells"
        size, *_ = row["scores"]
        errors = np.array(row["scores"][size]["comparison"]["mase"])[:, None]
        where = {"size": int(size), "cells": len(errors), "contrasts": [row["contrast"]], **about, "note": note}
        for which, statistic in (("mean", np.mean), ("deviation", np.std)):
            effect = bootstrap(lambda values, s=statistic: float(s(values)), errors)
            measured.append(claim(f"table-1-{which}-comparison-{row['contrast']:g}", effect, **where))
        both = np.stack([row["scores"]["31"][name]["mase"] for name in ("rln", "comparison")], 1)
        effects += [bootstrap(ratio(0, 1), both), bootstrap(spreads, both)]
    if len(rows) > 1:
        where = {"size": 31, "cells": len(both), "contrasts": [row["contrast"] for row in rows], **about}
        seen = " and ".join(f"{row['patches']:,}" for row in rows)
        note = f"the RLN whose training went on at 31³ over the model trained here, on {seen} patches"
        measured.append(claim("rln-below-the-comparison-built-here", most(effects), **where, note=note))
    return measured


def spreads(rows: np.ndarray) -> float:
    """The deviation of the first column over that of the second."""
    return float(rows[:, 0].std() / rows[:, 1].std())


def main():
    options = provenance.parse(
        __doc__,
        contrasts=(50.0, 10.0),
        minutes=20.0,
        max_minutes=math.inf,
        cells=5120,
        size=21,
        batch_size=1024,
        learning_rate=5e-4,
        validation=4096,
        small=128,
        large=48,
        seed=121_000,
        folder="runs/comparison_model",
    )
    torch.set_num_threads(1)
    deadline, rows, left = time.monotonic() + 60 * options.max_minutes, [], []
    for contrast in options.contrasts:
        try:
            rows.append(of_contrast(contrast, options, deadline))
        except runs.Unfinished as pause:
            left.append(f"contrast {contrast:g}: {pause}")
    del options.max_minutes  # it says nothing of the result
    options.contrasts = [row["contrast"] for row in rows]
    if rows:
        question = (
            "How far does the paper's comparison model get on our cells, and how far is the RLN on the same ones?"
        )
        provenance.write_record(question, options, {"threads": 1, "rows": rows, "claims": claims(rows)})
    print("\n".join([*left, "Run the same command again to go on."]) if left else "Complete.")


if __name__ == "__main__":
    main()
