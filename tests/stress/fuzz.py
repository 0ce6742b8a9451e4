"""Do the public functions answer anything that a user can pass with a result or a sentence?

    python tests/stress/fuzz.py --calls 13600 --seed 0

Each call has one or two of its arguments replaced by hostile values. Right is a result, or a ValueError, TypeError or
OSError whose message names the argument. Wrong is any other exception, a message without the name, a result with
``converged=True`` that is not finite, and a call that takes more than ``--seconds``. Exit code 0: all are right.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import inspect
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rlnlib
from rlnlib import (
    dataset,
    elasticity,
    engineering,
    fans,
    green,
    images,
    metrics,
    microstructure,
    training,
    weight_files,
)

CELL = np.arange(64).reshape(1, 4, 4, 4) % 3 == 0
SET = {"size": 4, "grain_size": (1, 2), "contrast": 10.0}


def functions(folder: Path) -> dict[str, tuple[Callable, dict[str, Any]]]:
    """The public functions, each with arguments that are right and quick."""
    np.save(folder / "cell.npy", CELL[0])
    CELL[0].tofile(folder / "cell.raw")
    np.save(folder / "cells.npy", np.stack([1 - CELL.astype(int), CELL.astype(int)], 1))
    np.save(folder / "strain.npy", np.ones((1, 4, 4, 4)))
    data = dataset.make_dataset(folder / "data.h5", 5, **SET)
    model = rlnlib.RLN(passes=1)
    weight_files.save_weights(folder / "one.safetensors", model)
    field = torch.ones(2, 4, 4, 4)
    return {
        "generate_cells": (rlnlib.generate_cells, {"n": 1, "size": 4, "grain_size": (1, 2)}),
        "pymks_cell": (
            microstructure.pymks_cell,
            {"size": 4, "grain_size": (1, 2, 2), "soft_fraction": 0.5, "seed": 1},
        ),
        "design": (microstructure.design, {"points": 4}),
        "load_cell": (rlnlib.load_cell, {"path": folder / "cell.npy"}),
        "load_cell of raw": (rlnlib.load_cell, {"path": folder / "cell.raw", "shape": (4, 4, 4), "dtype": "bool"}),
        "load_labels": (images.load_labels, {"path": folder / "cell.npy"}),
        "make_dataset": (dataset.make_dataset, {"path": folder / "new.h5", "n": 2, "block": 2, **SET}),
        "StrainDataset": (dataset.StrainDataset, {"path": data, "split": "train"}),
        "verify": (dataset.verify, {"path": data}),
        "repair": (dataset.repair, {"path": data}),
        "read_parameters": (dataset.read_parameters, {"path": data}),
        "import_arrays": (
            dataset.import_arrays,
            {
                "path": folder / "foreign.h5",
                "contrast": 10.0,
                "test": (folder / "cells.npy", folder / "strain.npy"),
            },
        ),
        "solve_strain": (rlnlib.solve_strain, {"stiff": CELL, "contrast": 10.0, "rtol": 1e-4}),
        "effective_stiffness": (rlnlib.effective_stiffness, {"stiff": CELL, "contrast": 10.0, "rtol": 1e-3}),
        "predict_strain": (rlnlib.predict_strain, {"model": model, "stiff": CELL}),
        "predict": (rlnlib.predict, {"model": rlnlib.InformedRLN(passes=1), "stiff": CELL, "contrast": 10.0}),
        "RLN": (rlnlib.RLN, {"passes": 1}),
        "InformedRLN": (rlnlib.InformedRLN, {"passes": 1}),
        "TrainingConfig": (training.TrainingConfig, {}),
        "load_pretrained": (rlnlib.load_pretrained, {"kind": "fln", "contrast": 10.0}),
        "load_published": (rlnlib.load_published, {"path": folder / "cell.npy"}),
        "load_weights": (weight_files.load_weights, {"path": folder / "one.safetensors"}),
        "fans.write": (fans.write, {"folder": folder / "case", "stiff": CELL[0], "contrast": 10.0}),
        "engineering_constants": (
            engineering.engineering_constants,
            {"stiffness": elasticity.isotropic_stiffness(1.0, 0.3)},
        ),
        "mase": (rlnlib.mase, {"predicted": field, "true": field}),
        "energy_by_wavelength": (metrics.energy_by_wavelength, {"field": field, "wavelengths": [2.0, 3.0]}),
        "isotropic_stiffness": (elasticity.isotropic_stiffness, {"young": 1.0, "poisson": 0.3}),
        "GreenOperator": (
            green.GreenOperator,
            {"shape": (4, 4, 4), "discretization": "bbar", "young": 1.0, "poisson": 0.3},
        ),
    }


def hostile_values() -> list:
    """What users, their scripts and their mistakes pass."""
    deep: Any = ()
    for _ in range(500):
        deep = (deep,)
    numbers = [-1, 0, 1, 2, 3, 7, 0.5, -0.0, 1e-320, 1e-150, 1e100, 1e308, float("nan"), float("inf"), float("-inf")]
    numbers += [2**31, 2**63 - 1, 2**63, 2**64, 10**400, -(10**400), 1j, True, False, 1.5, 0.3]
    texts = [
        "",
        "no",
        "nan",
        "1",
        "cpu",
        "meta",
        "cuda:99",
        "a\0b",
        "x" * 5000,
        "\udcff",
        b"x",
        "hex8",
        "..",
        "/",
        "absent",
    ]
    others = [None, [], (), {}, set(), object(), deep, len, range(3), iter([1]), slice(3), Ellipsis, NotImplemented]
    arrays = [
        np.zeros(0),
        np.zeros((0, 4, 4, 4), bool),
        np.float32(0.5),
        np.int64(2),
        np.array(2),
        np.array([None, 1], object),
        np.array(["a"]),
        np.full((4, 4, 4), np.nan),
        np.ones((4, 4, 4), ">i4"),
        np.ones((1, 4, 4, 4), "<f2"),
        np.ones((4, 4)),
        np.zeros((4, 4, 4), bool)[::-1, ::-1],
        np.ones((2, 4, 4, 4))[..., ::-1],
        np.full((2, 4, 4, 4), 1e308),
        np.zeros(3, "M8[s]"),
        np.ma.masked_all((4, 4, 4)),
        np.zeros(2, [("a", int)]),
        [[1, 2], [3]],
        [float("nan")] * 6,
        [1e300] * 6,
        [1e-150] * 6,
        [0] * 6,
        [(2e11, 0.3), (1e12, 0.3)],
        [(0, 0.3), (1, 0.3)],
        [(1, 0.5)],
    ]
    tensors = [
        torch.zeros(4, 4, 4, dtype=torch.bool).to_sparse(),
        torch.zeros(4, 4, 4, dtype=torch.bool, device="meta"),
        torch.ones(2, 4, 4, 4, dtype=torch.complex64),
        torch.ones(2, 4, 4, 4, dtype=torch.bfloat16, requires_grad=True),
        torch.zeros(()),
        torch.float16,
        torch.float64,
        torch.device("meta"),
        torch.nn.Linear(2, 2),
    ]
    return numbers + texts + others + arrays + tensors


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``Hang`` where the block takes longer."""

    def ring(*_):
        raise Hang

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


class Hang(BaseException):
    """No Exception, so that nothing catches it on the way."""


def judge(function: Callable, arguments: dict, replaced: list[str], seconds: float) -> str:
    """Say "result" or "sentence" where the outcome is right, else what is wrong with it."""
    try:
        with time_limit(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function(**arguments)
    except Hang:
        return f"took more than {seconds:g} s"
    except (ValueError, TypeError, OSError) as error:
        said = str(error)
        return "sentence" if any(name in said for name in replaced) else f"no name: {type(error).__name__}: {said}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if isinstance(result, rlnlib.Solution):
        for field in (result.strain, result.stress):
            if not bool(torch.isfinite(field[result.converged]).all()):
                return "converged=True, and not finite"
    return "result"


#: Names under which a message may speak of an argument: of what is in it, or of what it makes.
OTHER_NAMES = {
    "path": ["absent", "No data set", "cell", "/", ".h5", "file", "folder"],
    "phases": ["poisson", "Young"],
    "contrast": ["labels", "moduli"],
    "batch_mean": ["released"],
    "macroscopic_stress": ["macroscopic_strain"],  # that it leads to
    "proximal": ["network of the file", "released"],
    "kind": ["No weights", "fln"],
    "size": ["grain_size", "No weights"],
    "repeats": ["multiple"],
    "n": ["multiple", "n="],
}


def campaign(names: list[str] | None, calls: int, seed: int, seconds: float = 10.0):
    """Yield (function's name, replaced arguments as text, verdict) of each call; the same for the same seed."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        there = functions(Path(place))
        values, home = hostile_values(), os.getcwd()
        os.chdir(place)  # where a hostile path becomes a file
        try:
            for _ in range(calls):
                name = draw.choice(names or list(there))
                function, arguments = there[name]
                known = [*arguments, *(p for p in inspect.signature(function).parameters if p not in arguments)]
                known = [p for p in known if p not in ("self", "parameters", "options", "solver_options", "progress")]
                replaced = draw.sample(known, min(len(known), draw.choice((1, 1, 1, 2))))
                changed = {p: draw.choice(values) for p in replaced}
                wanted = [*replaced, *(other for p in replaced for other in OTHER_NAMES.get(p, []))]
                wanted += [os.fsdecode(v)[:40] for v in changed.values() if isinstance(v, (str, bytes)) and v]
                verdict = judge(function, {**arguments, **changed}, wanted, seconds)
                for made in ("new.h5", "foreign.h5"):
                    Path(place, made).unlink(missing_ok=True)
                shutil.rmtree(Path(place, "new.h5.parts"), ignore_errors=True)
                yield name, ", ".join(f"{p}={_shown(v)}" for p, v in changed.items()), verdict
        finally:
            os.chdir(home)


def _shown(value) -> str:
    try:
        text = repr(value)
    except Exception:
        text = type(value).__name__
    return " ".join(text.split())[:80]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("functions", nargs="*", help="only these")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    count: Counter = Counter()
    started = time.monotonic()
    faulthandler.dump_traceback_later(60 * options.seconds, repeat=False, exit=True)
    for name, changed, verdict in campaign(options.functions or None, options.calls, options.seed, options.seconds):
        faulthandler.dump_traceback_later(60 * options.seconds, repeat=False, exit=True)
        right = verdict in ("result", "sentence")
        count[verdict if right else "wrong"] += 1
        if not right:
            print(f"{name}({changed}): {verdict[:200]}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(f"{dict(count)} in {time.monotonic() - started:.0f} s")
    return 1 if count["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
