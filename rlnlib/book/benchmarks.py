"""Records of benchmarks, and what follows from their raw seconds: rates, ratios, exponents, each derived here alone.

A record in ``benchmarks/results`` holds what was measured, turn by turn, in ``seconds`` (by side), ``seconds_by_size``
(by side and size), or ``turns`` (of a row, by step); what a side did in one turn in ``cells``; and in ``compare`` the
pairs of sides whose ratio is asked.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from rlnlib import networks
from rlnlib.provenance import ROOT, significant

RESULTS = ROOT / "benchmarks" / "results"
#: Cells of one of the paper's two data sets.
PAPER = 20480
#: Parts of a record that say how it was made.
CIRCUMSTANCES = ("question", "date", "settings", "machine", "versions", "commit")
#: Raw numbers, in whose place readers take what follows from them.
RAW = ("seconds", "cells", "compare", "seconds_by_size", "voxels_at_once", "turns")


def records(folder: Path = RESULTS) -> dict[str, dict]:
    """All records of a folder by name, with what follows from them."""
    return {file.stem: derive(json.loads(file.read_text(encoding="utf-8"))) for file in sorted(folder.glob("*.json"))}


def pass_operations(size: int, form: type[networks.VNet] = networks.VNet) -> float:
    """Additions and multiplications of one pass of the V-Net for each voxel of a cell, counted layer by layer."""
    network = form().train()  # in evaluation mode it leaves a part out
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(2, 6, size, size, size))
    return counter.get_total_flops() / (2 * size**3)


def iteration_operations(size: int) -> float:
    """The same of one iteration of conjugate gradients preconditioned by the Green operator, with fast transforms."""
    stiffness = 8 * 9 * 2 + 24 + 84  # eight 3 x 3 blocks, the modulus, sums and differences of corner values
    transforms = 2 * 3 * 2.5 * math.log2(size**3)  # there and back, of three components
    medium = 15  # a symmetric 3 x 3 matrix for each frequency, of which there are half as many as voxels
    products = 3 * (2 * 2 + 3 * 2)  # two scalar products and three updates, of three components
    return stiffness + transforms + medium + products


def derive(record: dict) -> dict:
    """A record with the rates, ratios, exponents and shares that follow from its raw numbers, to four digits."""
    found = dict(record)
    seconds, cells = record.get("seconds"), record.get("cells")
    if isinstance(seconds, dict) and isinstance(cells, dict):
        found["cells_per_second"] = {side: spread([n / s for s in seconds[side]]) for side, n in cells.items()}
        found["ratio"] = {}
        for ours, theirs in record.get("compare", ()):
            turns = zip(seconds[ours], seconds[theirs], strict=True)
            found["ratio"][f"{ours} / {theirs}"] = spread([cells[ours] / a * b / cells[theirs] for a, b in turns])
        if "compared" in record["settings"]:  # the making of data sets
            found["seconds_per_cell"] = {k: spread([s / n for s in seconds[k]]) for k, n in cells.items()}
            both = sum(cost["median"] for cost in found["seconds_per_cell"].values())
            found["minutes_of_both_sets_of_the_paper"] = significant(PAPER * both / 60)
    if "gflop_per_cell" in record:
        found |= _of_products(found)
    if "seconds_by_size" in record:
        found |= _of_sizes(record)
    if "voxels_at_once" in record:
        voxels = record["voxels_at_once"]
        found["bytes_per_voxel"] = {k: round(mib * 2**20 / voxels[k]) for k, mib in record["peak_mebibytes"].items()}
    if "peak_before_GiB" in record:
        above = record["peak_GiB"] - record["peak_before_GiB"]
        found["bytes_per_voxel"] = significant(above * 2**30 / record["settings"]["size"] ** 3)
    if "rows" in record:
        found["rows"] = [_of_steps(row) for row in record["rows"]]
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    measures = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: significant(value) for name, value in measures.items()}


def slope(voxels: list[float], seconds: list[float]) -> float:
    """Exponent p of seconds ~ voxels^p, by least squares on the logarithms."""
    return significant(statistics.linear_regression(list(map(math.log, voxels)), list(map(math.log, seconds))).slope)


def _of_products(record: dict) -> dict:
    """The machine's rate of matrix products, 2 n^3 operations each, and the share of it that each side reaches."""
    products = {name: spent for name, spent in record["seconds"].items() if name.startswith("matrix product")}
    work = 2 * record["matrix_product_size"] ** 3 / 1e9
    peak = {name: spread([work / s for s in spent]) for name, spent in products.items()}
    share = {}
    for side, gflop in record["gflop_per_cell"].items():
        rate = peak["matrix product" + (", bfloat16" if "bfloat16" in side else "")]["median"]
        share[side] = significant(record["cells_per_second"][side]["median"] * gflop / rate)
    return {"matrix_product_gflop_per_second": peak, "share_of_matrix_product_rate": share}


def _of_sizes(record: dict) -> dict:
    """Exponents of seconds against voxels; for a solver also those of one iteration, with the logarithm divided out."""
    voxels, by_size = record["voxels"], record["seconds_by_size"]
    medians = {name: [statistics.median(spent) for spent in turns] for name, turns in by_size.items()}
    one = {n: [s / k for s, k in zip(medians[n], record["iterations"][n], strict=True)] for n in record["iterations"]}
    pairs = list(itertools.pairwise(range(len(voxels))))
    return {
        "median_seconds": medians,
        "microseconds_per_voxel": {
            name: [significant(1e6 * s / v) for s, v in zip(spent, voxels, strict=True)]
            for name, spent in medians.items()
        },
        "exponent": {name: slope(voxels, spent) for name, spent in medians.items()},
        "exponent_from_size_to_size": {
            name: [slope([voxels[i], voxels[j]], [spent[i], spent[j]]) for i, j in pairs]
            for name, spent in medians.items()
        },
        "exponent_of_an_iteration": {name: slope(voxels, spent) for name, spent in one.items()},
        "exponent_of_an_iteration_without_the_logarithm": {
            name: slope(voxels, [s / math.log(v) for s, v in zip(spent, voxels, strict=True)])
            for name, spent in one.items()
        },
    }


def _of_steps(row: dict) -> dict:
    """A row of the time-accuracy plane with the median, least and most seconds a cell of each step."""
    if "turns" not in row:
        return row
    spent = row["turns"]
    made = {
        "seconds_a_cell": [statistics.median(turns) for turns in spent],
        "least": [min(turns) for turns in spent],
        "most": [max(turns) for turns in spent],
    }
    return {key: value for key, value in row.items() if key != "turns"} | made
