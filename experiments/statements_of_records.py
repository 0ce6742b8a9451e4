"""Statements that recorded runs decide: test errors of the shipped networks, learning curves, times."""

from __future__ import annotations

import csv
import itertools
import json
import math
import statistics
from pathlib import Path

import numpy as np

from measured import Effect, bootstrap, claim, least, most, ratio, row_of_table_1, used
from rlnlib import provenance, weight_files
from rlnlib.rln import KINDS
from statements_of_networks import CONTRASTS

RESULTS = provenance.ROOT / "data" / "results"
TIMES = provenance.ROOT / "benchmarks" / "results"
#: Whose training is weighed against solves on a processor.
TRAINED_ON_ONE_THREAD = "training of the RLN for 31³ that was trained on one CPU thread"


def read(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_errors(kind: str, contrast: float, size: int) -> np.ndarray:
    """MASE of each test cell of a shipped network."""
    return np.array(read(test_file(kind, contrast, size))["mase"])


def test_file(kind: str, contrast: float, size: int) -> Path:
    """What was recorded of a shipped network."""
    return weight_files.PRETRAINED / f"{used(kind, contrast, size)}.test.json"


def order() -> dict:
    """Which network errs least, and spreads least, on the same test cells."""
    size = 31 if {(kind, contrast) for kind in KINDS for contrast in CONTRASTS} <= set(weight_files.shipped(31)) else 16
    means, deviations = [], []
    for contrast in CONTRASTS:
        fln, tied, full = (test_errors(kind, contrast, size) for kind in KINDS)
        for worse, better in ((fln, tied), (tied, full)):
            table = np.stack([worse, better], 1)
            means.append(bootstrap(ratio(0, 1), table))
            deviations.append(bootstrap(lambda rows: float(rows[:, 0].std() / rows[:, 1].std()), table))
    where = {"size": size, "cells": len(fln), "contrasts": list(CONTRASTS), "data": "design", "training": "shipped"}
    return {
        "claims": [
            claim("rln-better-than-rln-t-better-than-fln", least(means), **where),
            claim("spread-falls-the-same-way", least(deviations), **where),
        ]
    }


def released_table() -> dict:
    """Table 1 of the networks that the authors released, where they were scored on our cells of 31^3."""
    record, claims, off = read(RESULTS / "published.json"), [], []

    def percent_off(statistic, value: float, errors: np.ndarray) -> Effect:
        return bootstrap(lambda rows: 100 * abs(float(statistic(rows)) / value - 1), errors)

    for contrast in CONTRASTS:
        if scored := record.get(f"{contrast:g}"):
            errors = {
                kind: np.array(scored["networks"][kind]["cell_mean"]["mase"])[:, None] for kind in ("fln", "rln-t")
            }
            rows = {kind: row_of_table_1(kind, contrast) for kind in errors}
            means = [percent_off(np.mean, rows[kind][0], of) for kind, of in errors.items()]
            off += [percent_off(np.std, rows[kind][1], of) for kind, of in errors.items()]
            where = {"size": 31, "cells": len(errors["fln"]), "data": "design", "training": "released"}
            claims.append(claim(f"released-means-{contrast:g}", most(means), **where, contrasts=[contrast]))
    scored_at = [contrast for contrast in CONTRASTS if f"{contrast:g}" in record]
    return {"claims": [*claims, claim("released-deviations", most(off), **where, contrasts=scored_at)]}


def half_of_comparison() -> dict:
    """Table 1's RLN as shipped for cells of 31^3, over the published numbers of the comparison model."""
    effects: list[Effect] = []
    for contrast in CONTRASTS:
        mean, deviation = row_of_table_1("comparison", contrast)
        errors = test_errors("rln", contrast, 31)[:, None]
        effects.append(bootstrap(lambda rows, m=mean: float(rows.mean() / m), errors))
        effects.append(bootstrap(lambda rows, d=deviation: float(rows.std() / d), errors))
    where = {"size": 31, "cells": len(errors), "contrasts": list(CONTRASTS), "data": "design", "training": "shipped"}
    return {"claims": [claim("rln-half-the-error-of-comparison", most(effects), **where)]}


def learning_curves() -> dict:
    """Where the training loss is the validation measure (one pass, mean absolute error): how often is which lower?"""
    lower = []
    for contrast in CONTRASTS:
        name = used("fln", contrast)
        with open(weight_files.PRETRAINED / f"{name}.learning_curve.csv", encoding="utf-8", newline="") as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        losses = [stage["loss"] for stage in weight_files.pretrained_header("fln", contrast)["recipe"]]
        falls = [new["learning_rate"] > 2 * old["learning_rate"] for old, new in itertools.pairwise(rows)]
        stage = np.cumsum([0, *falls])  # the learning rate falls within a stage
        chosen = [row for row, number in zip(rows, stage, strict=True) if losses[min(number, len(losses) - 1)] == "mae"]
        lower += [row["validation_mase"] < row["training_loss"] for row in chosen]
    where = {"size": 16, "contrasts": list(CONTRASTS), "data": "design", "training": "shipped"}
    return {
        "epochs": len(lower),
        "claims": [claim("validation-sometimes-lower", float(np.mean(lower)), **where, note=f"{len(lower)} epochs")],
    }


def other_sizes() -> dict:
    """The RLN trained on 16^3, on cells of 31^3."""
    record = read(RESULTS / "small_then_large.json")
    rows = [row for row in record["rows"] if (row["trained_on"], row["size"]) == (16, 31)]
    found = [row["mean"] / row["macroscopic_strain"] for row in rows]
    where = {"size": 31, "cells": record["settings"]["cells"], "contrasts": [row["contrast"] for row in rows]}
    return {"claims": [claim("other-sizes-work", max(found), **where, training="shipped")]}


def truth_and_redundancy() -> dict:
    """The finite element against the stored fields; what sisters of the test cells in training are worth."""
    fields = read(RESULTS / "finite_element.json")["against_the_reference_fields"].values()
    sisters = read(RESULTS / "sister_cells.json")["rows"]
    gain = [100 * row["gain"] / row["without"] for row in sisters]
    spread = [100 * row["standard_error"] / row["without"] for row in sisters]
    mean, margin = float(np.mean(gain)), 2 * math.hypot(*spread) / len(sisters)
    where = {"size": 16, "contrasts": [50.0], "data": "design", "training": "experiment"}
    return {
        "claims": [
            claim(
                "finite-element-truth",
                max(field["bbar"]["worst"] for field in fields),
                size=21,
                cells=sum(field["cells"] for field in fields),
                contrasts=list(CONTRASTS),
                data="reference",
            ),
            claim("redundancy", (mean, mean - margin, mean + margin), **where, seeds=len(sisters)),
        ]
    }


def row_of(record: dict, method: str, contrast: float, precision: str, mode: str = "together") -> dict:
    """A row of the time-accuracy plane; its turns are seconds a cell of each step, several times."""
    return next(
        row
        for row in record["rows"]
        if (row["method"], row["contrast"], row["precision"], row["mode"]) == (method, contrast, precision, mode)
    )


def over(ours: list[float], theirs: list[float]) -> Effect:
    """Seconds of one side over those of another: the medians of the turns, and their extremes."""
    return (
        statistics.median(ours) / statistics.median(theirs),
        min(ours) / max(theirs),
        max(ours) / min(theirs),
    )


def times() -> dict:
    """Seconds of networks and solvers for the same error on the same cores, and how many solves a training is worth."""
    large = read(TIMES / "time_accuracy_31.json")
    assembled = {size: read(TIMES / f"scipy_sparse_{size}.json")["seconds"] for size in (16, 31)}
    scipy, own = "SciPy, conjugate gradients", "rlnlib"
    tied = [
        over(*(row_of(large, kind, contrast, precision)["turns"][-1] for kind in ("RLN", "RLN-t")))
        for contrast in CONTRASTS
        for precision in ("float32", "bfloat16")
    ]
    medians, lows, highs = zip(*tied, strict=True)
    against: dict[str, list[Effect]] = {"conjugate gradients": [], "fixed point": []}
    # Minutes of the RLN that a processor trained, as the solvers ran on one; Table 1's was trained on a GPU.
    minutes = {contrast: read(test_file("rln-further", contrast, 31))["minutes"] for contrast in CONTRASTS}
    pays, rows = False, {}
    for contrast in CONTRASTS:
        network = row_of(large, "RLN", contrast, "bfloat16")
        for method, effects in against.items():
            solver = row_of(large, method, contrast, "float32")
            step = next(i for i, e in enumerate(solver["mase_percent"]) if e <= network["mase_percent"][-1])
            effects.append(over(solver["turns"][step], network["turns"][-1]))
            rows[f"{method}, contrast {contrast:g}"] = {"steps": solver["steps"][step], "over_rln": effects[-1]}
            saved = statistics.median(solver["turns"][step]) - statistics.median(network["turns"][-1])
            pays |= method == "conjugate gradients" and saved > 0 and 60 * minutes[contrast] / saved < 1e6
    alone = row_of(large, "RLN", 50.0, "bfloat16", "one by one")["turns"][-1]
    solves = 60 * minutes[50.0] / (statistics.median(assembled[31][scipy]) - statistics.median(alone))
    gains = {size: over(spent[scipy], spent[own]) for size, spent in assembled.items()}
    growth = (gains[31][0] / gains[16][0], gains[31][1] / gains[16][2], gains[31][2] / gains[16][1])
    weights = {kind: (weight_files.PRETRAINED / f"{kind}-10.safetensors").stat().st_size for kind in ("rln", "rln-t")}
    test_set = 8192 * statistics.median(row_of(large, "RLN", 10.0, "bfloat16")["turns"][-1])
    where = {"size": 31, "contrasts": list(CONTRASTS), "training": "shipped"}
    return {
        "for_the_error_of_the_rln": rows,
        "claims": [
            claim(
                "passes-cost-the-same",
                (max(medians), min(lows), max(highs)),
                **where,
                note="float32 and bfloat16, four cells in a call",
            ),
            claim(
                "rln-needs-more-memory", weights["rln"] / weights["rln-t"], training="shipped", note="bytes of files"
            ),
            claim("prediction-speed", least(against["conjugate gradients"]), **where),
            claim("much-faster-than-analytical", least(against["fixed point"]), **where),
            claim("inverse-problems", bool(pays), **where, note=TRAINED_ON_ONE_THREAD),
            claim("faster-than-finite-elements", over(assembled[31][scipy], alone), **where | {"contrasts": [50.0]}),
            claim("pays-against-finite-elements", solves, **where | {"contrasts": [50.0]}, note=TRAINED_ON_ONE_THREAD),
            claim("large-volumes", growth, contrasts=[50.0], note="16³ and 31³ voxels"),
            claim(
                "seconds-for-the-test-set",
                test_set,
                machine="two CPU cores",
                size=31,
                note="8,192 times the time of the RLN at 31³, bfloat16, four cells in a call",
            ),
        ],
    }


def hours() -> dict:
    """The paper's 60 epochs of 8,192 cells at the speed of the last stage of Table 1's RLN for 31^3, on a GPU."""
    header = weight_files.pretrained_header("rln", 50.0, 31)
    name = used("rln", 50.0, 31)
    with open(weight_files.PRETRAINED / f"{name}.learning_curve.csv", encoding="utf-8", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    begins = [k for k in range(1, len(rows)) if rows[k]["learning_rate"] > 2 * rows[k - 1]["learning_rate"]]
    first = begins[-1] if begins else 0
    last = len(rows) - (1 if header["recipe"][-1]["max_minutes"] else 0)  # the time ended the last epoch
    seconds = rows[last - 1]["seconds"] - (rows[first - 1]["seconds"] if first else 0)
    presented = (last - first) * header["training_cells"]
    value = 60 * 8192 * seconds / presented / 3600
    where = {"size": 31, "contrasts": [50.0], "machine": header["device"], "training": "shipped"}
    return {
        "presented": presented,
        "seconds": seconds,
        "claims": [
            claim(
                "training-hours",
                value,
                **where,
                note="60 epochs of 8,192 cells at the speed of whole epochs, beside other trainings on the GPU",
            )
        ],
    }


CASES = {
    case.__name__: case
    for case in (
        released_table,
        order,
        half_of_comparison,
        learning_curves,
        other_sizes,
        truth_and_redundancy,
        times,
        hours,
    )
}
