"""Does one network, trained without a solution, serve every contrast, load, phase and size?

    python experiments/informed.py --out data/results/informed.json
    python experiments/informed.py --parts shapes images --max-minutes 10 --out ...    some of it
    python experiments/informed.py --images scan.tif --stiff-from 90 --out ...         grey values from 90 on are stiff

Scores the shipped network of ``experiments/train_informed.py`` on cells that it has not seen. The solver is the truth.
Each part is kept in the folder as soon as it is made, so a run that was cut off goes on by the same command; the record
is written from what there is, and names what is left. ``experiments/certificates.py`` has the bounds.

Fixed on 2026-11-26, before the first result: the aim is a MASE of strain_xx, under an axial load and with a Poisson
ratio of 0.3, of at most 0.40 % at contrast 10 and 2.0 % at contrast 50, on fresh cells of 16^3, and on cells of 31^3
without any training at that size. Met where the mean over the test cells is below it.

Fixed before the first result of the part "by_application_31": the question is how many passes keep the errors of the
paper's RLN, 1.21 and 2.92 % by Table 1, and how many applications of the operator reach the aim, on test cells of the
paper's design: by the passes alone, by the passes with the guarantee, by conjugate gradients that go on from the
prediction, and by conjugate gradients from zero. The least number counts at which the mean error is below it.

Fixed before the first result of the part "guaranteed_test": the aim, 0.40 and 2.0 % on the paper's test cells of 31^3,
counts as met by so many guaranteed passes where the mean over the cells and two standard errors stay below it. That the
third network proposes in all later passes was chosen before on other cells (seeds 5 and 105, 16^3, 31^3 and 32^3,
contrasts 2 to 1000); the rows "in turn" are the passes in which each network proposes once.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from functools import partial
from pathlib import Path

import tifffile
import torch

import rlnlib
from measured import axial_cells, draw_test_cells
from rlnlib import dataset, solvers, weight_files
from rlnlib._files import write_atomically
from rlnlib.conjugate_gradient import conjugate_gradient
from rlnlib.dataset import making
from rlnlib.informed import certificate
from rlnlib.provenance import parse, significant, write_record

LOADS = {
    "11": (1, 0, 0, 0, 0, 0),
    "22": (0, 1, 0, 0, 0, 0),
    "12": (0, 0, 0, 0, 0, 1),
    "23": (0, 0, 0, 1, 0, 0),
    "all six": (0.5, -0.3, 0.2, 0.4, -0.6, 0.3),
}
PHASES = {
    "three, 1 : 10 : 100": [(1.0, 0.3), (10.0, 0.3), (100.0, 0.3)],
    "four, 1 : 5 : 25 : 125": [(1.0, 0.3), (5.0, 0.3), (25.0, 0.3), (125.0, 0.3)],
    "two, 1 : 10, Poisson 0.15 and 0.4": [(1.0, 0.15), (10.0, 0.4)],
    "two, 1 : 50, Poisson 0.4 and 0.2": [(1.0, 0.4), (50.0, 0.2)],
}
SHOWN = "mase", "strain_error", "stiffness_error", "bound_width"


def compare(model, stiff, load=LOADS["11"], **material) -> dict[str, torch.Tensor]:
    """Errors of a prediction by cell, in percent; "mase" is that of the first loaded component."""
    load = torch.tensor(load, dtype=torch.float64)
    truth = rlnlib.solve_strain(stiff, macroscopic_strain=load, rtol=1e-6, **material)
    return errors(rlnlib.predict(model, stiff, macroscopic_strain=load, **material), truth, load)


def errors(found: rlnlib.Solution, truth: rlnlib.Solution, load: torch.Tensor) -> dict[str, torch.Tensor]:
    """By cell, in percent: MASE of the first loaded component, rms error of the strain tensor over the macroscopic
    strain, and, relative to e : C_eff : e, the error of the upper bound and the width of the bounds."""
    component = int(torch.nonzero(load)[0])
    energy = truth.effective_stress @ load
    lower, upper = found.energy_bounds.unbind(1)
    difference = (found.strain - truth.strain).square().sum(1).mean((1, 2, 3)).sqrt()
    return {
        "mase": rlnlib.mase(found.strain[:, component] / load[component], truth.strain[:, component] / load[component]),
        "strain_error": 100 * difference / load.norm(),
        "stiffness_error": 100 * (upper / energy - 1),
        "bound_width": 100 * (upper - lower) / energy,
        "violations": ((lower > energy * (1 + 1e-9)) | (upper < energy * (1 - 1e-9))).double(),
    }


def summary(values: torch.Tensor) -> dict[str, float]:
    """Mean, deviation, standard error of the mean and largest value over the cells."""
    deviation = float(values.std()) if len(values) > 1 else 0.0
    found = {"mean": float(values.mean()), "deviation": deviation, "standard_error": deviation / math.sqrt(len(values))}
    return {name: significant(value) for name, value in {**found, "largest": float(values.max())}.items()}


def summaries(by_cell: dict[str, torch.Tensor]) -> dict:
    return {"cells": len(by_cell["mase"]), **{name: summary(by_cell[name]) for name in SHOWN}}


def many_phases(count: int, size: int, phases: int, seed: int) -> torch.Tensor:
    """Cells of three or four phases, from two independent cells of two. Shape: -> (count, size, size, size) int64."""
    grain_size = (1, min(10, size))
    first, second = (
        torch.from_numpy(rlnlib.generate_cells(count, size, grain_size, seed=seed + i)).long() for i in range(2)
    )
    return first + 2 * second if phases == 4 else torch.where(first == 1, 1, 2 * second)


def shapes(size: int) -> dict[str, torch.Tensor]:
    """One cell each of what an engineer draws."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = 0.3 * size
    return {
        "sphere, stiff": x * x + y * y + z * z < radius**2,
        "sphere, soft": x * x + y * y + z * z >= radius**2,
        "fibre along the load": y * y + z * z < radius**2,
        "fibre across the load": x * x + y * y < radius**2,
        "laminate across the load": x < 0,
        "laminate along the load": y < 0,
        "oblique laminate": torch.remainder(x + y, size) < size / 2,
    }


@torch.no_grad()
def by_application(model, stiff, contrast: float, iterations: int) -> dict:
    """Mean errors after each pass of the network, of its guaranteed variant, of conjugate gradients from zero, and of
    conjugate gradients that go on from the prediction.

    A pass of the network takes one application of K and one of the Green operator, as an iteration of conjugate
    gradients does; one of the guaranteed variant takes three of K, one of
    them for the residual that the network sees.
    """
    truth = rlnlib.solve_strain(stiff, contrast, rtol=1e-6)
    cells, single = axial_cells(stiff, contrast, torch.float64), axial_cells(stiff, contrast)
    start = torch.zeros_like(cells.problem.rhs)
    passes = [u.double() for u in model(single, return_iterates=True)]
    ways = {
        "network": passes,
        "continued": certificate.guarded_steps(cells.problem, passes[-1], [None] * iterations),
        "guaranteed": model.guaranteed(cells, iterations),
        "in turn": model.guaranteed(cells, networks=range(model.passes)),
        "conjugate_gradient": certificate.guarded_steps(cells.problem, start, [None] * iterations),
    }
    energy = truth.effective_stress[:, 0]
    table: dict = {}
    for name, iterates in ways.items():
        rows = [
            (rlnlib.mase(cells.strain(u)[:, 0], truth.strain[:, 0]).mean(), 100 * (2 * cells.energy(u) / energy - 1))
            for u in iterates
        ]
        table[name] = {
            "mase": [significant(float(mase)) for mase, _ in rows],
            "stiffness_error": [significant(float(error.mean())) for _, error in rows],
        }
    return table


def start_saves(model, stiff, contrast: float, tolerances) -> dict:
    """Mean iterations of conjugate gradients from zero and from the prediction."""
    table = {}
    for rtol in tolerances:
        zero = rlnlib.solve_strain(stiff, contrast, rtol=rtol).iterations.double().mean()
        start = rlnlib.predict(model, stiff, contrast, rtol=rtol).iterations.double().mean()
        table[f"{rtol:g}"] = {"from zero": round(float(zero), 2), "from the prediction": round(float(start), 2)}
    return table


def seconds(model, size: int, contrast: float = 50.0, cells: int = 4) -> dict[str, float]:
    """Processor seconds of one thread for a cell: a pass of the network, and an iteration of conjugate gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = axial_cells(torch.from_numpy(rlnlib.generate_cells(cells, size, seed=4)), contrast)
        with torch.no_grad():
            model(made)
            started = time.process_time()
            model(made)
            network = (time.process_time() - started) / (cells * model.passes)
        conjugate_gradient(made.problem, solvers.StoppingRule(1e-4))
        started = time.process_time()
        _, statistics = conjugate_gradient(made.problem, solvers.StoppingRule(1e-4))
        iteration = (time.process_time() - started) / int(statistics.iterations.sum())
    finally:
        torch.set_num_threads(threads)
    return {"network pass": significant(network), "conjugate gradient iteration": significant(iteration)}


def ct_like(size: int, seed: int = 0) -> torch.Tensor:
    """What a scanner would show of grains: a window of a larger cell, blurred, with noise, cut at a grey value.

    It has what sets an image apart from the training cells: it is not periodic, so that there is a seam at its faces,
    its phases meet in rough surfaces, and single voxels are wrong. Shape: -> (1, size, size, size) bool.
    """
    g = torch.Generator().manual_seed(seed)
    whole = torch.from_numpy(rlnlib.generate_cells(1, 2 * size, (8, 10), (0.4, 0.41), seed=seed)).float()
    field = torch.nn.functional.avg_pool3d(whole[:, None], 3, stride=1)[:, 0, :size, :size, :size]
    return field + 0.15 * torch.randn(field.shape, generator=g) > 0.5


def on_image(model, stiff: torch.Tensor) -> dict:
    """Errors on one image at contrast 10 and 50."""
    found = {"size": list(stiff.shape), "stiff_fraction": significant(float(stiff.double().mean()))}
    for contrast in (10.0, 50.0):
        errors_of = compare(model, stiff, contrast=contrast)
        found[f"{contrast:g}"] = {name: significant(float(value)) for name, value in errors_of.items()}
    return found


def on_scan(model, file: Path, stiff_from: int) -> dict:
    """Errors on a TIFF stack of grey values, which are stiff from a value on."""
    stiff = torch.from_numpy(tifffile.imread(file) >= stiff_from)
    return {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), **on_image(model, stiff)}


def solved_blocks(contrast: float, count: int, device: str):
    """Test cells of the paper's design, drawn at random among all 8,192, solved here block by block.

    Returns how many there are, for the record, and an iterator over the blocks: stiff and strain_xx, (b, N, N, N).
    """
    design, together = paper_design(contrast), {"cpu": 8, "cuda": 256}[device]
    drawn, all_of_them = draw_test_cells(design, count)

    def blocks():
        for begin in range(0, len(drawn), together):
            solved = making.solve(design, drawn[begin : begin + together], torch.device(device))
            yield tuple(torch.from_numpy(solved[name]) for name in ("stiff", "strain_xx"))

    return {"cells": len(drawn), "of": all_of_them}, blocks()


def on_test_set(model, contrast: float, count: int, device="cpu") -> dict:
    """MASE of the network's answers on test cells."""
    cells, blocks = solved_blocks(contrast, count, device)
    found = [
        rlnlib.mase(rlnlib.predict(model, stiff, contrast, dtype=torch.float32, device=device).strain[:, 0].cpu(), true)
        for stiff, true in blocks
    ]
    return {**cells, "mase": summary(torch.cat(found))}


@torch.no_grad()
def guaranteed_on_test_set(model, contrast: float, count: int, device="cpu", passes=(5, 6)) -> dict:
    """MASE after so many guaranteed passes on test cells."""
    of_all, blocks = solved_blocks(contrast, count, device)
    found: dict[int, list] = {number: [] for number in passes}
    model = copy.deepcopy(model).to(device)
    for stiff, true in blocks:
        cells = axial_cells(stiff.to(device), contrast, torch.float64)
        iterates = model.guaranteed(cells, max(passes))
        for number, errors_of in found.items():
            errors_of.append(rlnlib.mase(cells.strain(iterates[number - 1])[:, 0].cpu(), true.double()))
    return {**of_all, **{f"{n}": summary(torch.cat(of)) for n, of in found.items()}}


def paper_design(contrast: float) -> dataset.Parameters:
    return dataset.Parameters(**dataset.PROFILES["paper"], contrast=contrast)


def by_application_on_test_set(model, contrast: float, count: int, together: int = 8) -> dict:
    """The same on test cells of the paper's design, with standard errors: of the means of so many cells each."""
    if count % together:
        raise ValueError(f"--followed must be a multiple of {together}; it is {count}.")
    design, found = paper_design(contrast), []
    drawn, _ = draw_test_cells(design, count)
    for begin in range(0, len(drawn), together):
        stiff = torch.from_numpy(making.generate(design, drawn[begin : begin + together]))
        found.append(by_application(model, stiff, contrast, 12))
    rows = {way: torch.tensor([part[way]["mase"] for part in found]) for way in found[0]}
    means = {way: {"mase": [significant(float(x)) for x in of.mean(0)]} for way, of in rows.items()}
    errors = {way: [significant(float(x)) for x in of.std(0) / math.sqrt(len(of))] for way, of in rows.items()}
    return {"cells": len(drawn), **means, "standard_errors": errors}


def parts_of(model, options) -> dict:
    """Name of each part, "random/31/50" for nested ones: what makes it."""
    parts: dict = {}
    for c in (10.0, 50.0):
        parts[f"paper_test/{c:g}"] = partial(on_test_set, model, c, options.test, options.device)

    def random(size, count, contrast):
        return summaries(
            compare(model, rlnlib.generate_cells(count, size, (1, min(10, size)), seed=90), contrast=contrast)
        )

    def loaded(name, contrast):
        stiff = rlnlib.generate_cells(options.cells[0] // 2, 16, seed=91)
        return summaries(compare(model, stiff, LOADS[name], contrast=contrast))

    def of_phases(phases):
        labels = many_phases(options.cells[0] // 4, 16, len(phases), 92) % len(phases)
        return summaries(compare(model, labels, phases=phases))

    def shape(name, contrast):
        found = compare(model, shapes(32)[name], contrast=contrast)
        return {key: significant(float(value)) for key, value in found.items()}

    def applications(contrast):
        cells = torch.from_numpy(rlnlib.generate_cells(options.cells[0] // 4, 16, seed=93))
        return by_application(model, cells, contrast, options.iterations)

    def start(contrast):
        few = rlnlib.generate_cells(options.cells[0] // 4, 16, seed=94)
        return start_saves(model, few, contrast, (1e-2, 1e-4, 1e-6))

    for size, count in sorted(zip(options.sizes, options.cells, strict=True)):
        parts |= {f"random/{size}/{c:g}": partial(random, size, count, c) for c in options.contrasts}
    parts |= {f"loads/{name}/{c:g}": partial(loaded, name, c) for name in LOADS for c in (10.0, 50.0)}
    parts |= {f"phases/{name}": partial(of_phases, phases) for name, phases in PHASES.items()}
    parts |= {f"shapes/{name}/{c:g}": partial(shape, name, c) for name in shapes(2) for c in (10.0, 50.0)}
    parts["images/like a scan"] = partial(on_image, model, ct_like(32))
    for file in map(Path, filter(None, options.images)):
        parts[f"images/{file.name}, from {options.stiff_from}"] = partial(on_scan, model, file, options.stiff_from)
    parts |= {f"by_application/{c:g}": partial(applications, c) for c in (*options.contrasts, *options.high)}
    for c in (10.0, 50.0):
        parts[f"by_application_31/{c:g}"] = partial(by_application_on_test_set, model, c, options.followed)
        parts[f"guaranteed_test/{c:g}"] = partial(guaranteed_on_test_set, model, c, options.guaranteed, options.device)
    parts |= {f"start/{c:g}": partial(start, c) for c in (10.0, 50.0, 1000.0)}
    parts |= {f"seconds/{size}": partial(seconds, model, size) for size in (16, 31)}
    return parts


def nested(flat: dict) -> dict:
    """{"random/31/50": x} -> {"random": {"31": {"50": x}}}."""
    table: dict = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        inner = table
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return table


def main():
    options = parse(
        __doc__,
        weights="",
        images=("",),
        stiff_from=128,
        parts=("all",),
        contrasts=(2.0, 10.0, 50.0, 100.0, 300.0, 1000.0),
        high=(3000.0, 10000.0),
        sizes=(16, 31, 32, 64),
        cells=(256, 96, 96, 4),
        iterations=30,
        test=512,
        followed=128,
        guaranteed=512,
        max_minutes=0.0,
        folder="runs/scores",
    )
    model = weight_files.load_weights(options.weights) if options.weights else rlnlib.load_pretrained("informed")
    used = Path(options.weights) if options.weights else weight_files.PRETRAINED / "informed.safetensors"
    of = {"weights": hashlib.sha256(used.read_bytes()).hexdigest()}
    of |= {name: list(map(str, getattr(options, name))) for name in ("sizes", "cells")}
    of |= {"iterations": options.iterations, "test": options.test, "followed": options.followed}
    of |= {"guaranteed": options.guaranteed}
    path = Path(options.folder) / "parts.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"of": of, "parts": {}}
    if kept["of"] != of:
        raise OSError(f"{path} holds scores of {kept['of']}: choose another --folder.")
    entered, done, left = time.monotonic(), kept["parts"], []
    for name, make in parts_of(model, options).items():
        wanted = list(options.parts) == ["all"] or name.split("/")[0] in options.parts
        in_time = not options.max_minutes or time.monotonic() - entered < 60 * options.max_minutes
        if name not in done and wanted and in_time:
            done[name] = make()
            write_atomically(path, json.dumps(kept).encode())
            print(f"{name}: {done[name]}", flush=True)
        if name not in done:
            left.append(name)
    header = weight_files.read_header(used)
    options.images = [Path(file).name for file in options.images]
    result = {"left": left, "weights": {**header, "sha256": of["weights"]}, **nested(done)}
    write_record("Does one network, trained without a solution, serve every contrast and size?", options, result)
    print(f"Left: {'; '.join(left)}. Run the same command again to go on." if left else "Complete.")


if __name__ == "__main__":
    main()
