"""Does one network, trained without a solution, serve every contrast, load, phase and size?

    python experiments/informed.py --files paper-50.h5 --out data/results/informed.json

Scores the shipped network of ``experiments/train_informed.py`` on cells that it has not seen. The solver is the truth.

Fixed on 2026-11-26, before the first result: the aim is a MASE of strain_xx, under an axial load and with a Poisson
ratio of 0.3, of at most 0.40 % at contrast 10 and 2.0 % at contrast 50, on fresh cells of 16^3, and on cells of 31^3
without any training at that size. Met where the mean over the test cells is below it.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

import rlnlib
from rlnlib import certificate, dataset, informed, solvers, weight_files
from rlnlib.conjugate_gradient import conjugate_gradient
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
    gradients does; one of the guaranteed variant takes two of K.
    """
    load = torch.tensor(LOADS["11"], dtype=torch.float64)
    truth = rlnlib.solve_strain(stiff, contrast, rtol=1e-6)
    young = torch.where(stiff, contrast, 1.0).double()
    loads = load.expand(len(stiff), 6)
    cells = informed.Cells(young, torch.full_like(young, 0.3), loads, torch.float64)
    single = informed.Cells(young, torch.full_like(young, 0.3), loads)
    start = torch.zeros_like(cells.problem.rhs)
    passes = [u.double() for u in model(single, return_iterates=True)]
    ways = {
        "network": passes,
        "continued": certificate.guarded_steps(cells.problem, passes[-1], [None] * iterations),
        "guaranteed": model.guaranteed(cells, iterations),
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
        stiff = rlnlib.generate_cells(cells, size, seed=4)
        young = torch.where(torch.from_numpy(stiff), contrast, 1.0).double()
        made = informed.Cells(young, torch.full_like(young, 0.3), torch.eye(6)[:1].expand(cells, 6))
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


def certificate_holds(model, count: int, group: int = 250) -> dict:
    """Random cells of 8^3 with two or three random phases under random loads: how often a bound is on the wrong side
    of the truth, for the shipped network and for one with random weights."""
    torch.manual_seed(0)
    hostile = informed.InformedRLN(passes=1)
    for parameter in hostile.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    g = torch.Generator().manual_seed(1)
    result = {name: {"predictions": 0, "violations": 0, "bound_width": []} for name in ("shipped", "random weights")}
    for number in range(count // group):
        phases = 2 + number % 2
        cells = many_phases(group, 8, 4, seed=5000 + number) % phases
        young = 1000 ** torch.rand(phases, generator=g, dtype=torch.float64)
        poisson = 0.6 * torch.rand(phases, generator=g, dtype=torch.float64) - 0.15
        material = {"phases": list(zip(young.tolist(), poisson.tolist(), strict=True))}
        load = torch.randn(6, generator=g, dtype=torch.float64)
        truth = rlnlib.solve_strain(cells, macroscopic_strain=load, rtol=1e-9, **material)
        for name, network in (("shipped", model), ("random weights", hostile)):
            found = errors(rlnlib.predict(network, cells, macroscopic_strain=load, **material), truth, load)
            result[name]["predictions"] += group
            result[name]["violations"] += int(found["violations"].sum())
            result[name]["bound_width"].append(float(found["bound_width"].median()))
    for row in result.values():
        row["bound_width"] = significant(sorted(row["bound_width"])[len(row["bound_width"]) // 2])  # median of medians
    return result


def on_test_set(model, path: Path, cells: int) -> dict:
    """The first test cells of a data set of the paper's design, at contrast 10 and 50: against the stored strains
    where the set is of that contrast, else against the solver's."""
    held = dataset.StrainDataset(path, "test", in_memory=False)
    cells = min(cells, len(held))
    stiff, stored = (torch.stack(part) for part in zip(*[held[i] for i in range(cells)], strict=True))
    table = {}
    for contrast in (10.0, 50.0):
        is_stored = dataset.read_parameters(path).contrast == contrast
        truth = stored if is_stored else rlnlib.solve_strain(stiff, contrast, rtol=1e-6).strain[:, 0].float()
        predicted = rlnlib.predict(model, stiff, contrast, dtype=torch.float32).strain[:, 0]
        error = rlnlib.mase(predicted, truth.view_as(predicted))
        table[f"{contrast:g}"] = {"cells": cells, "of": len(held), "mase": summary(error)}
    return table


def main():
    options = parse(
        __doc__,
        weights="",
        files=("",),
        contrasts=(2.0, 10.0, 50.0, 100.0, 300.0, 1000.0),
        sizes=(16, 31, 32, 64),
        cells=(256, 96, 96, 4),
        test=512,
        certified=10_000,
    )
    model = weight_files.load_weights(options.weights) if options.weights else rlnlib.load_pretrained("informed")
    result: dict = {"weights": weight_files.pretrained_header("informed")} if not options.weights else {}

    def tell(part: str):
        print(f"{part}: {result[part]}", flush=True)

    result["paper_test"] = {}
    for path in filter(None, options.files):
        result["paper_test"] |= on_test_set(model, Path(path), options.test)
    tell("paper_test")
    result["random"] = {}
    for size, count in zip(options.sizes, options.cells, strict=True):
        stiff = rlnlib.generate_cells(count, size, seed=90)
        result["random"][str(size)] = {
            f"{c:g}": summaries(compare(model, stiff, contrast=c)) for c in options.contrasts
        }
    tell("random")
    stiff = rlnlib.generate_cells(options.cells[0] // 2, 16, seed=91)
    result["loads"] = {
        name: {f"{c:g}": summaries(compare(model, stiff, load, contrast=c)) for c in (10.0, 50.0)}
        for name, load in LOADS.items()
    }
    tell("loads")
    result["phases"] = {
        name: summaries(compare(model, many_phases(options.cells[0] // 4, 16, len(p), 92) % len(p), phases=p))
        for name, p in PHASES.items()
    }
    tell("phases")
    result["shapes"] = {
        name: {
            f"{c:g}": {key: significant(float(value)) for key, value in compare(model, cell, contrast=c).items()}
            for c in (10.0, 50.0)
        }
        for name, cell in shapes(32).items()
    }
    tell("shapes")
    cells = torch.from_numpy(rlnlib.generate_cells(options.cells[0] // 4, 16, seed=93))
    result["by_application"] = {f"{c:g}": by_application(model, cells, c, 12) for c in options.contrasts}
    tell("by_application")
    few = rlnlib.generate_cells(options.cells[0] // 4, 16, seed=94)
    result["start"] = {f"{c:g}": start_saves(model, few, c, (1e-2, 1e-4, 1e-6)) for c in (10.0, 50.0, 1000.0)}
    tell("start")
    result["certificate"] = certificate_holds(model, options.certified)
    result["seconds"] = {str(size): seconds(model, size) for size in (16, 31)}
    write_record("Does one network, trained without a solution, serve every contrast and size?", options, result)


if __name__ == "__main__":
    main()
