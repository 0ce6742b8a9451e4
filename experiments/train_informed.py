"""Train one network for every contrast, load, phase and size, without a single solution; and ship it.

    python experiments/train_informed.py --folder runs/informed --ship
    python experiments/train_informed.py --test   # the shipped network again, on its test cells

No label is needed: random cells of 16^3, random contrasts from 1 to 300, mostly two phases and a Poisson ratio of 0.3,
some of three and four phases or with random Poisson ratios; three quarters of the loads axial (11), the others a shear
(12). Every other load follows by an exchange of axes and superposition. The loss is the logarithm of the energy. What
is drawn depends on (seed, step) alone, so a run that was killed and resumed ends with the same weights, bit for bit.
The loop is not :func:`rlnlib.runs.train`, which presents pairs of cell and strain in epochs, by an RLN's loss, and
keeps the best epoch. Here are no labels, no epochs and another loss, and two copies of the network share a batch.
``--ship`` puts weights, learning curve and test errors into ``data/pretrained`` when the run has ended;
``experiments/informed.py`` scores the weights in all that they promise, and states the aims. Each number of the
recipe and each choice of the network is an option; a run that was cut off goes on by the same command.
"""

from __future__ import annotations

import argparse
import copy
import functools
import hashlib
import io
import json
import math
import os
import signal
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

import gathered
import rlnlib
import ship
from measured import axial_cells
from recorded import Recorded
from rlnlib import informed, provenance, runs, training, weight_files
from rlnlib._files import write_atomically
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.solvers import StoppingRule

AXIAL = torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64)
SHEAR = torch.tensor([0, 0, 0, 0, 0, 1.0], dtype=torch.float64)
#: Parts of a batch, each computed by one thread with weights of its own: threads wait for each other once a step, and
#: the sums come in one order however many threads there are.
SHARES = 2
#: Of the validation: contrasts, cells of each.
CONTRASTS, HELD_OUT = (10.0, 50.0, 100.0), 24
#: Of the test: cells, and the seed that makes them.
TESTED, TEST_SEED = 256, 90

RECIPE = {
    "steps": 5000,
    "batch_size": 8,
    "size": 16,
    "cells": 16384,
    "learning_rate": 2e-3,
    "warm_up": 50,
    "clip": 1.0,
    "largest_contrast": 300.0,
    "axial": 0.75,
    "many_phases": 0.15,
    "random_poisson": 0.15,
    "loss": "energy",  # or "residual"; or "strain", with solutions as labels
    "pass_weights": [],  # of the passes' losses; none: all alike
    "large": 0.0,  # part of the steps on larger cells, as many fewer of them as they have more voxels
    "large_size": 24,
    "validate_every": 250,
    "minutes": 0.0,  # the run ends, and the cosine with it, after them, if that comes before its steps
    "start": "",  # a weight file to begin with
    "seed": 0,
}
#: The network, where nothing else is asked.
NETWORK = {"passes": 5, "tied": False, "proximal": "vnet-periodic", "residual": "absolute", "answer": "displacement"}


def random_cells(count: int, size: int, seed: int) -> torch.Tensor:
    """The paper's kind of cells. Shape: -> (count, size, size, size) bool."""
    return torch.from_numpy(rlnlib.generate_cells(count, size, grain_size=(1, min(10, size)), seed=seed))


def draw(cells: torch.Tensor, recipe: dict, step: int, share: int = 0) -> tuple[torch.Tensor, ...]:
    """A share of a step's batch: random cells, shifts, mirrors, exchanges of axes, phases, contrasts and loads.

    Shape: cells (n, N, N, N) bool -> what :class:`rlnlib.informed.Cells` takes.
    """
    g = torch.Generator().manual_seed(((recipe["seed"] + 1) * 1_000_003 + step) * SHARES + share)
    young, poisson, strain = [], [], []
    for _ in range(max(1, round(recipe["batch_size"] * (recipe["size"] / cells.shape[1]) ** 3) // SHARES)):
        chance = torch.rand(4, generator=g).tolist()
        first, second = (_moved(cells[int(torch.randint(len(cells), (), generator=g))], g).long() for _ in range(2))
        phases = 2 if chance[0] >= recipe["many_phases"] else 3 + int(chance[1] < 0.5)
        # Four phases where two cells overlap; three where the first hides the second.
        labels = first if phases == 2 else first + 2 * second if phases == 4 else first + second * (1 - first) * 2
        contrast = recipe["largest_contrast"] ** torch.rand((), generator=g, dtype=torch.float64)
        rank = torch.rand(phases, generator=g, dtype=torch.float64)
        rank[:2] = torch.tensor([0.0, 1.0])
        ratios = torch.full((phases,), informed.REFERENCE_POISSON, dtype=torch.float64)
        if chance[2] < recipe["random_poisson"]:
            ratios = 0.45 * torch.rand(phases, generator=g, dtype=torch.float64)
        young.append((contrast**rank)[labels])
        poisson.append(ratios[labels])
        strain.append(AXIAL if chance[3] < recipe["axial"] else SHEAR)
    return torch.stack(young), torch.stack(poisson), torch.stack(strain)


def is_large(recipe: dict, step: int) -> bool:
    """Whether a step takes the larger cells."""
    g = torch.Generator().manual_seed((recipe["seed"] + 1) * 7_000_003 + step)
    return float(torch.rand((), generator=g)) < recipe["large"]


def _backward(batch: informed.Cells, recipe: dict, dtype, model) -> torch.Tensor:
    """The loss of cells, (); its gradient is added to that in the model."""
    weights = recipe["pass_weights"]
    iterates = model(batch, dtype, return_iterates=True)
    if recipe["loss"] == "strain":
        solution, _ = conjugate_gradient(batch.problem, StoppingRule(1e-4))
        loss = informed.strain_loss(iterates, batch, solution, weights)
    else:
        of = {"energy": informed.energy_loss, "residual": informed.residual_loss}[recipe["loss"]]
        loss = of(iterates, batch, weights)
    loss.backward()
    return loss.detach()


class OnThreads:
    """The step of a CPU: each share of a batch by a thread with weights of its own."""

    def __init__(self, model, recipe: dict, sets: dict[bool, torch.Tensor], begin: int):
        self.model, self.recipe, self.sets = model, recipe, sets
        self.dtype = torch.bfloat16 if training.fast_precision("cpu") == "bf16-mixed" else torch.float32
        self.models = [model, *(copy.deepcopy(model) for _ in range(SHARES - 1))]
        for each in self.models:
            keep_in_float32(each)
        self.pool = ThreadPoolExecutor(SHARES, initializer=torch.set_num_threads, initargs=(1,))

    def gradient(self, step: int) -> float:
        """The loss of a step; its gradient is left in the model."""
        losses = list(self.pool.map(functools.partial(self._share, step), self.models, range(SHARES)))
        for first, *others in zip(*(m.parameters() for m in self.models), strict=True):
            first.grad = sum((p.grad for p in others), first.grad) / SHARES
        return sum(losses) / SHARES

    def _share(self, step: int, model, share: int) -> float:
        cells = self.sets[is_large(self.recipe, step)]
        model.zero_grad()
        batch = informed.Cells(*draw(cells, self.recipe, step, share))
        return float(_backward(batch, self.recipe, self.dtype, model))

    def after_step(self) -> None:
        """Give the new weights to all threads."""
        for other in self.models[1:]:
            other.load_state_dict(self.model.state_dict())

    def close(self) -> None:
        self.pool.shutdown()


class OnGPU:
    """The step of a GPU: a whole batch, drawn by other processes meanwhile, its work recorded once for each size."""

    WORKERS = max(1, min(3, (os.cpu_count() or 1) - 1))

    def __init__(self, model, recipe: dict, sets: dict[bool, torch.Tensor], begin: int):
        gathered.use()
        torch.backends.cudnn.benchmark = True
        self.model, self.recipe = model, recipe
        self.device = next(model.parameters()).device
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.recorded: dict = {}
        drawn = _Drawn(sets, recipe)
        loader = torch.utils.data.DataLoader(
            drawn, batch_size=None, sampler=range(begin, recipe["steps"]), num_workers=self.WORKERS, prefetch_factor=8
        )
        self.batches = iter(loader)

    def gradient(self, step: int) -> torch.Tensor:
        """The loss of a step, on the device; its gradient is left in the model."""
        batch = informed.Cells(*(field.to(self.device) for field in next(self.batches)))
        shape = batch.problem.rhs.shape
        if shape not in self.recorded:
            work = functools.partial(self._work, copy.copy(batch), copy.copy(batch.problem))
            self.recorded[shape] = Recorded(work, _tensors(batch, batch.problem), self.model.parameters())
        return self.recorded[shape](*_tensors(batch, batch.problem))

    def _work(self, batch, problem, *tensors: torch.Tensor) -> torch.Tensor:
        batch.problem = problem
        for name, tensor in zip(_OF_CELLS + _OF_PROBLEM, tensors, strict=True):
            setattr(batch if name in _OF_CELLS else problem, name, tensor)
        return _backward(batch, self.recipe, self.dtype, self.model)

    def after_step(self) -> None:
        """Nothing: there is one copy of the weights."""

    def close(self) -> None:
        del self.batches


#: All tensors of informed.Cells and of its problem that differ from batch to batch.
_OF_CELLS = ("strain_norm", "macroscopic_strain", "_uniform_energy", "_log_young", "_mean_young")
_OF_PROBLEM = ("moduli", "rhs")


def _tensors(cells: informed.Cells, problem) -> list[torch.Tensor]:
    return [getattr(cells, name) for name in _OF_CELLS] + [getattr(problem, name) for name in _OF_PROBLEM]


class _Drawn(torch.utils.data.Dataset):
    """The batch of each step, both shares together."""

    def __init__(self, sets: dict[bool, torch.Tensor], recipe: dict):
        self.sets, self.recipe = sets, recipe

    def __getitem__(self, step: int) -> list[torch.Tensor]:
        cells = self.sets[is_large(self.recipe, step)]
        shares = [draw(cells, self.recipe, step, share) for share in range(SHARES)]
        return [torch.cat(fields) for fields in zip(*shares, strict=True)]


def _moved(cell: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """A random symmetry copy. Without labels to turn along, every one is a cell as good as the original."""
    axes = torch.randperm(3, generator=g).tolist()
    mirrors = [axis for axis in range(3) if torch.rand((), generator=g) < 0.5]
    shifts = torch.randint(0, cell.shape[0], (3,), generator=g).tolist()
    return cell.permute(axes).flip(mirrors).roll(shifts, (0, 1, 2))


def keep_in_float32(model: torch.nn.Module) -> None:
    """Take convolutions of 17 to 32 channels out of the reduced precision, for which this torch has no fast gradient.

    On a CPU with bfloat16 but without matrix units, that of 32 to 16 channels takes 4.6 times as long as in float32.
    """
    for layer in model.modules():
        if isinstance(layer, (torch.nn.Conv3d, torch.nn.ConvTranspose3d)) and 16 < layer.in_channels <= 32:
            layer.forward = functools.partial(_in_float32, layer.forward)  # type: ignore[method-assign]


def _in_float32(forward, field: torch.Tensor) -> torch.Tensor:
    with torch.autocast(field.device.type, enabled=False):
        return forward(field.float())


def part_done(recipe: dict, state: dict) -> float:
    """How much of the run is done, by steps or by time, whichever is more."""
    by_time = state["seconds"] / (60 * recipe["minutes"]) if recipe["minutes"] else 0.0
    return max(state["step"] / recipe["steps"], by_time)


def rate(recipe: dict, step: int, done: float) -> float:
    """Linear rise over the warm-up, then a cosine to zero."""
    cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return recipe["learning_rate"] * min(1, (step + 1) / recipe["warm_up"]) * cosine


def train(
    folder,
    recipe: dict,
    options: dict | None = None,
    checkpoint_minutes=3.0,
    until: int | None = None,
    make=None,
    device="cpu",
):
    """Train an :class:`rlnlib.informed.InformedRLN`, or go on with the training in ``folder``; returns it.

    A SIGTERM ends the run after the step under way, with a checkpoint; so does ``until``, a number of steps. A run may
    be given another end than it began with: the cosine then goes to the new one, and ``state["ends"]`` tells so.
    ``make`` takes the place of :class:`~rlnlib.informed.InformedRLN`.
    """
    folder, path = Path(folder), Path(folder) / "checkpoint.pt"
    torch.manual_seed(recipe["seed"])
    model = (make or informed.InformedRLN)(**(options or {})).train().to(device)
    if recipe["start"]:
        model.load_state_dict(weight_files.load_weights(recipe["start"]).state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe["learning_rate"])
    state: dict = {"step": 0, "seconds": 0.0, "loss": 0.0, "learning_curve": [], "ends": [[0, recipe["steps"]]]}
    if path.exists():
        state = _resume(path, model, optimizer, recipe)
    cells = random_cells(recipe["cells"], recipe["size"], seed=1000 + recipe["seed"])
    sets = {False: cells}
    if recipe["large"]:
        sets[True] = random_cells(recipe["cells"] // 4, recipe["large_size"], seed=3000 + recipe["seed"])
    held_out = validation_set(recipe["size"], device) if recipe["validate_every"] else []
    steps = (OnGPU if torch.device(device).type == "cuda" else OnThreads)(model, recipe, sets, state["step"])
    stopped: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    started = saved = time.monotonic()
    earlier = state["seconds"]
    while part_done(recipe, state) < 1 and state["step"] != until and not stopped:
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, state["step"], part_done(recipe, state))
        loss = steps.gradient(state["step"])
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"], error_if_nonfinite=True)
        optimizer.step()
        steps.after_step()
        state["step"] += 1
        state["loss"] += loss  # on the device, which need not wait for the host
        state["seconds"] = earlier + time.monotonic() - started
        if recipe["validate_every"] and state["step"] % recipe["validate_every"] == 0:
            row = {"step": state["step"], "presented": state["step"] * recipe["batch_size"]}
            row |= {"minutes": round(state["seconds"] / 60, 2), "loss": float(state["loss"]) / recipe["validate_every"]}
            row |= {f"mase_{held[0]:g}": round(validation_error(model, *held), 4) for held in held_out}
            state["learning_curve"].append(row)
            state["loss"] = 0.0
            print(json.dumps(row), flush=True)
        if time.monotonic() - saved > 60 * checkpoint_minutes:
            _save(path, model, optimizer, recipe, state)
            saved = time.monotonic()
    signal.signal(signal.SIGTERM, before)
    steps.close()
    _save(path, model, optimizer, recipe, state)
    return model.eval()


def validation_set(size: int, device="cpu") -> list[tuple]:
    """(contrast, cells, strain_xx) for the same cells at each contrast."""
    stiff = random_cells(HELD_OUT, size, seed=77)
    return [(c, stiff, rlnlib.solve_strain(stiff, c, rtol=1e-4, device=device).strain[:, 0].cpu()) for c in CONTRASTS]


def validation_error(model, contrast: float, stiff: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean MASE of strain_xx under an axial load, in float32."""
    cells = axial_cells(stiff.to(next(model.parameters()).device), contrast)
    with torch.no_grad():
        strain = cells.strain(model.eval()(cells))
    model.train()
    return float(rlnlib.mase(strain[:, 0].cpu(), truth).mean())


def _save(path: Path, model, optimizer, recipe: dict, state: dict) -> None:
    content = io.BytesIO()
    state = {**state, "loss": float(state["loss"])}
    saved = {"recipe": recipe, "config": model.config, "state": state, "weights": model.state_dict()}
    torch.save({**saved, "optimizer": optimizer.state_dict()}, content)
    body = content.getvalue()
    write_atomically(path, zlib.crc32(body).to_bytes(4, "little") + body)
    write_atomically(
        path.with_name("learning_curve.json"), (json.dumps(state["learning_curve"], indent=1) + "\n").encode()
    )


def read_checkpoint(path) -> dict:
    """What a run left in its folder. Raises OSError if it is damaged."""
    content = Path(path).read_bytes()
    if zlib.crc32(content[4:]) != int.from_bytes(content[:4], "little"):
        raise OSError(f"{path} is damaged: delete the folder to start again.")
    return torch.load(io.BytesIO(content[4:]), map_location="cpu", weights_only=True)


def _resume(path: Path, model, optimizer, recipe: dict) -> dict:
    saved = read_checkpoint(path)
    if {**saved["recipe"], "steps": recipe["steps"]} != recipe or saved["config"] != model.config:
        raise OSError(f"{path} is of another recipe ({saved['config']}, {saved['recipe']}): choose another folder.")
    model.load_state_dict(saved["weights"])
    optimizer.load_state_dict(saved["optimizer"])
    if saved["recipe"]["steps"] != recipe["steps"]:
        saved["state"]["ends"].append([saved["state"]["step"], recipe["steps"]])
    return saved["state"]


def save(model, folder, path) -> None:
    """Write the weights of a finished run with its recipe and what it cost, its test errors and its learning curve."""
    state = read_checkpoint(Path(folder) / "checkpoint.pt")
    recipe, state = state["recipe"], state["state"]
    recipe = {**recipe, "labels": 0, "ends": state["ends"]}
    if recipe["start"]:  # what those weights say of themselves, since the file may be replaced by this one
        header, content = weight_files.read_header(recipe["start"]), Path(recipe["start"]).read_bytes()
        begun = {name: header[name] for name in ("recipe", "metrics")}
        recipe["start"] = {"sha256": hashlib.sha256(content).hexdigest(), **begun}
    if (device := next(model.parameters()).device).type == "cuda":
        recipe["device"] = torch.cuda.get_device_name(device)
    weight_files.save_weights(
        path,
        model,
        kind="informed",
        recipe=recipe,
        metrics={
            "presented": recipe["batch_size"] * state["step"],
            "minutes": round(state["seconds"] / 60, 1),
            "validation": state["learning_curve"][-1] if state["learning_curve"] else None,
        },
    )
    write_atomically(path.with_suffix(".json"), score(model, path))
    if state["learning_curve"]:
        runs.write_learning_curve(path.with_suffix(".learning_curve.csv"), state["learning_curve"])


def score(model, path: Path) -> bytes:
    """The record of a weight file: MASE of strain_xx under an axial load, of each fresh cell at each contrast."""
    header = weight_files.read_header(path)
    stiff = random_cells(TESTED, header["recipe"]["size"], TEST_SEED)
    errors = {}
    for contrast in CONTRASTS:
        truth = rlnlib.solve_strain(stiff, contrast, rtol=1e-6, device=next(model.parameters()).device).strain[:, 0]
        predicted = rlnlib.predict(model, stiff, contrast).strain[:, 0]
        errors[f"{contrast:g}"] = [round(error, 4) for error in rlnlib.mase(predicted, truth).tolist()]
    cells = {"n": TESTED, "size": header["recipe"]["size"], "seed": TEST_SEED}
    made = {"commit": provenance.current_commit(), "machine": provenance.machine(), "versions": provenance.versions()}
    return (json.dumps({**header, "cells": cells, "mase_by_contrast": errors, **made}) + "\n").encode()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/informed"))
    parser.add_argument("--ship", action="store_true", help="put the weights into data/pretrained")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--test", action="store_true", help="only test the shipped weights again")
    for name, value in {**RECIPE, **NETWORK}.items():
        many = isinstance(value, list)
        kind = float if many else (lambda word: word == "True") if isinstance(value, bool) else type(value)
        known = ("energy", "residual", "strain") if name == "loss" else None
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=value, nargs="+" if many else None, choices=known)
    options = parser.parse_args()
    if options.test:
        path = weight_files.PRETRAINED / "informed.safetensors"
        write_atomically(path.with_suffix(".test.json"), score(weight_files.load_weights(path), path))
        return
    recipe, network = ({name: getattr(options, name) for name in names} for names in (RECIPE, NETWORK))
    if len(recipe["pass_weights"]) not in (0, network["passes"]):
        parser.error(f"--pass-weights takes one number for each of the {network['passes']} passes.")
    model = train(options.folder, recipe, network, device=options.device)
    if part_done(recipe, read_checkpoint(options.folder / "checkpoint.pt")["state"]) < 1:
        return  # by a signal
    save(model, options.folder, options.folder / "informed.safetensors")
    if options.ship:
        ship.ship_file(options.folder / "informed.safetensors")


if __name__ == "__main__":
    main()
