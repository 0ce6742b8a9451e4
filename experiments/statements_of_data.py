"""Statements of section 4 on the microstructures, and what the released files show of the networks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

import rlnlib
from measured import bootstrap, claim, least
from rlnlib import dataset, microstructure, networks, proximals

SEED = 152_000


def reference_data() -> Path:
    """The folder with other people's data. Raises OSError where RLN_REFERENCE_DATA does not name it."""
    folder = os.environ.get("RLN_REFERENCE_DATA")
    if not folder:
        raise OSError("RLN_REFERENCE_DATA must name the folder with the released networks and cells.")
    return Path(folder)


def chords(cell: np.ndarray, axis: int) -> np.ndarray:
    """Lengths of the runs of one phase along the lines of an axis, periodically; lines of one phase have none."""
    lines = np.moveaxis(cell, axis, -1).reshape(-1, cell.shape[axis])
    found = []
    for line in lines:
        edges = np.flatnonzero(line != np.roll(line, 1))  # where a run begins
        if len(edges):
            found.append(np.diff(np.append(edges, edges[0] + len(line))))
    return np.concatenate(found) if found else np.empty(0, int)


def generator() -> dict:
    """The authors' cells, again; what their parameters do; how fine the features are."""
    stored = np.load(reference_data() / "author_cells_31.npz")
    design = zip(stored["stiff_packed"], stored["grain_size"], stored["soft_fraction"], stored["seed"], strict=True)
    equal = [
        np.array_equal(
            microstructure.pymks_cell(31, grain, fraction, seed),
            np.unpackbits(packed)[: 31**3].reshape(31, 31, 31).astype(bool),
        )
        for packed, grain, fraction, seed in design
    ]
    n = 256
    middle = rlnlib.generate_cells(n, stiff_fraction=(0.3, 0.7), seed=SEED)
    sizes, _ = microstructure.design(n, (1, 10), (0.3, 0.7), SEED)
    mean_chord = np.array([[chords(cell, axis).mean() for axis in range(3)] for cell in middle])
    correlations = [
        bootstrap(
            lambda rows: float(spearmanr(rows).statistic), np.stack([mean_chord[:, k], sizes[:, k]], 1), resamples=500
        )
        for k in range(3)
    ]
    cells = rlnlib.generate_cells(n, seed=SEED + 1)
    _, fractions = microstructure.design(n, (1, 10), (0, 1), SEED + 1)
    off = np.abs(cells.reshape(n, -1).sum(1) - fractions * 31**3)
    short = np.array(
        [[np.sum(c <= 2), len(c)] for c in (np.concatenate([chords(x, k) for k in range(3)]) for x in cells)]
    )
    where = {"size": 31, "cells": n, "data": "design"}
    return {
        "part_of_short_chords_by_cell": [
            float(np.round(v, 3)) for v in np.quantile(short[:, 0] / short[:, 1], [0.1, 0.5, 0.9])
        ],
        "claims": [
            claim("generator", float(np.mean(equal)), size=31, cells=len(equal), note="the authors' stored cells"),
            claim("filter-sets-the-grain-size", least(correlations), **where),
            claim("threshold-sets-the-fraction", float(off.max()), **where),
            claim("features-of-one-or-two-voxels", bootstrap(lambda r: r[:, 0].sum() / r[:, 1].sum(), short), **where),
        ],
    }


def split() -> dict:
    """Test cells of the paper's design that are equal to a training cell."""
    n, repeats = 20_480, 5
    sizes, fractions = microstructure.design(n // repeats, (1, 10), (0, 1), 0)
    keys = [
        hash(np.packbits(microstructure.generate_cell(i, sizes, fractions, 31, repeats, 0)).tobytes()) for i in range(n)
    ]
    kinds = dataset.draw_split(n, 0)
    training = {key for key, kind in zip(keys, kinds, strict=True) if kind == 0}
    shared = sum(key in training for key, kind in zip(keys, kinds, strict=True) if kind == 2)
    return {"claims": [claim("split-disjoint", float(shared), size=31, cells=n, data="design")]}


def released_files() -> dict:
    """What stands in the released networks: layers, slopes, inputs."""
    folder = reference_data() / "published"
    models = {path.stem: rlnlib.load_published(path) for path in sorted(folder.glob("*.model"))}
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    layers = [m for m in models["RLN_t_c10"].proximals[0].modules() if not list(m.children())]
    kernels = [layer.kernel_size[0] for layer in layers if hasattr(layer, "kernel_size")]
    slopes = sum(layer.weight.numel() for layer in layers if isinstance(layer, networks.PReLU))
    follows = [  # for each layer: is a PReLU next?
        (getattr(layer, "kernel_size", (0,))[0], isinstance(after, networks.PReLU))
        for layer, after in zip(layers, [*layers[1:], None], strict=True)
        if hasattr(layer, "kernel_size")
    ]
    as_said = all(activated == (kernel == 3) for kernel, activated in follows)
    last = layers[-1]
    reduces = kernels.count(1) == 1 and last.kernel_size[0] == 1 and last.out_channels == 1
    resamples = all(layer.stride[0] == 2 for layer in layers if getattr(layer, "kernel_size", (0,))[0] == 2)
    newest_and_earlier = models["RLN_t_c10"].proximals[0].begin[0].in_channels // 2
    where = {"training": "released"}
    return {
        "parameters": counts,
        "kernels_and_whether_a_prelu_follows": follows,
        "claims": [
            claim("parameters-rln-t-over-fln", counts["RLN_t_c10"] / counts["FLN_c10"], **where),
            claim("kernel-sizes", bool(kernels.count(3) > len(kernels) / 2 and reduces and resamples), **where),
            claim("prelu-position", bool(as_said), **where),
            claim("prelu-few-parameters", 100 * slopes / counts["RLN_t_c10"], **where),
            claim("last-solutions", float(newest_and_earlier), **where),
        ],
    }


def sight() -> dict:
    """Edge of the box of input voxels on which an output voxel of one pass depends."""
    edges = {}
    for name in ("vnet", "three-layer"):
        torch.manual_seed(0)
        network = proximals.find_proximal(name)(6)
        field = torch.randn(1, 6, 32, 32, 32, requires_grad=True)
        network(field)[0, 0, 16, 16, 16].backward()
        reached = field.grad[0].abs().sum(0) > 0
        edges[name] = int(reached.any(1).any(1).sum())
    return {
        "edges": edges,
        "claims": [claim("v-net-sees-far", edges["vnet"] / edges["three-layer"], note="voxels, counted")],
    }


CASES = {"generator": generator, "split": split, "released_files": released_files, "sight": sight}
