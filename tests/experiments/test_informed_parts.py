"""The comparison of the parts of the informed network: its cases are made, and its criterion is applied."""

import pytest
import torch

import informed_parts as experiment
import train_informed
from rlnlib import informed


def run(case, seed, mase):
    return {"case": case, "seed": seed, "scores": {"10, contrast 50": {"mase": [50.0, mase]}}}


def test_a_part_counts_only_where_every_seed_says_the_same():
    runs = [run("baseline", seed, 5.0 + seed) for seed in (0, 1, 2)]
    runs += [run("without the residual", seed, 6.0 + seed) for seed in (0, 1)]
    runs += [run("labels", 0, 4.0), run("labels", 1, 7.0)]
    runs += [run("three layers", 0, 9.0)]  # one seed decides nothing
    runs += [run("residual as loss", seed, 4.9 + seed) for seed in (1, 2)]
    found = experiment.verdicts(runs)
    assert {name: row["than the baseline"] for name, row in found.items()} == {
        "without the residual": "worse",
        "labels": "undecided",
        "residual as loss": "better",
    }
    assert found["without the residual"]["over the baseline"] == [1.2, 1.167]


@pytest.mark.parametrize("name", experiment.CASES)
def test_every_case_makes_a_network_that_begins_with_the_macroscopic_strain_and_learns(name, tmp_path):
    case = experiment.CASES[name]
    recipe = {**experiment.RECIPE, "steps": 1, "size": 6, "cells": 8, "batch_size": 2, "warm_up": 1, **case.recipe}
    make = None if case.proximal is None else lambda **options: experiment.Replaced(case.proximal, **options)
    network = {**train_informed.NETWORK, **case.network}
    cells = informed.Cells(*train_informed.draw(train_informed.random_cells(8, 6, seed=0), recipe, 0))
    start = (make or informed.InformedRLN)(**network)
    assert float(start(cells).detach().abs().max()) == 0
    model = train_informed.train(tmp_path, recipe, network, make=make)
    with torch.no_grad():
        assert float(model(cells).abs().max()) > 0
    weights = sum(p.numel() for p in model.parameters())
    whole = sum(p.numel() for p in informed.InformedRLN().parameters())
    assert name not in ("half the channels", "three layers", "tied passes") or weights < 0.5 * whole
