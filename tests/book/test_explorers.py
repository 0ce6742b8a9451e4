"""Every control of every explorer is moved, as a hand would in a live notebook."""

import functools

import matplotlib.pyplot as plt
import pytest

pytest.importorskip("ipywidgets")

from rlnlib.book import explorers

MOVED = {
    "bar": {"contrast": 100.0, "soft_fraction": 0.6, "reference": 0.6, "seed": 1, "passes": 1},
    "cell": {"grain_size": 2, "stiff_fraction": 0.6, "contrast": 10.0, "seed": 1, "iterations": 2, "slice": 1},
    "solvers": {"grain_size": 2, "contrast": 10.0, "seed": 1, "iteration": 1},
    "passes": {"network": "fln", "grain_size": 2, "contrast": 10.0, "seed": 1, "passes": 3},
    "kernel": {"contrast": 50.0, "n_cells": 16, "seed": 1, "slice": 1},
}


def make(name):
    explore = getattr(explorers, f"explore_{name}")
    return explore(segments=8) if name == "bar" else explore(size=8)


@pytest.mark.parametrize("name", MOVED)
def test_every_control_draws_another_picture(name):
    left = plt.get_fignums()  # by others
    explorer = make(name)
    assert set(explorer.controls) == set(MOVED[name])
    for control, value in MOVED[name].items():
        before = explorer.view.value, explorer.line.value
        explorer.controls[control].value = explorer.controls[control].value
        assert (explorer.view.value, explorer.line.value) == before, "nothing moved"
        explorer.controls[control].value = value
        assert bytes(explorer.view.value).startswith(b"\x89PNG") and explorer.view.value != before[0], control
    assert plt.get_fignums() == left


def test_the_iterations_of_a_cell_lower_its_error():
    explorer = explorers.explore_cell(size=8)
    errors = []
    for iterations in (1, 4):
        explorer.controls["iterations"].value = iterations
        errors.append(float(explorer.line.value.split("stopped ")[1].removesuffix(" % off")))
    assert errors[0] > errors[1] > 0
    explorer.controls["iterations"].value = 60
    assert "stopped" not in explorer.line.value


def test_the_network_stays_at_its_last_pass_where_the_solvers_go_on():
    explorer = explorers.explore_solvers(size=8)
    lines = {}
    for iteration in (0, 5, 10):
        explorer.controls["iteration"].value = iteration
        lines[iteration] = explorer.line.value.split(": ")[1].split(", ")
    assert len({line.split()[-2] for line in lines[0]}) == 1, "one start for all"
    assert lines[5][2] == lines[10][2] and lines[5][:2] != lines[10][:2]


def errors_by_pass(explorer, passes):
    """Errors of network, conjugate gradients and fixed point in the line of the explorer."""
    explorer.controls["passes"].value = passes
    return [float(part.split()[-2]) for part in explorer.line.value.split(": ")[1].split(", ")]


def test_a_network_leads_the_solvers_after_one_pass_and_trails_conjugate_gradients_after_ten():
    explorer = explorers.explore_passes(size=16, contrast=10.0)
    first, last = (errors_by_pass(explorer, passes) for passes in (1, 10))
    assert first[0] < min(first[1:]) and last[1] < last[0]
    assert len(set(errors_by_pass(explorer, 0))) == 1, "one start for all"
    explorer.controls["network"].value = "fln"
    assert errors_by_pass(explorer, 2)[0] == errors_by_pass(explorer, 10)[0], "one pass, and no more"


def test_the_bar_converges_with_the_medium_half_way_and_runs_away_with_a_soft_one():
    explorer = explorers.explore_bar(segments=8, contrast=10.0)
    explorer.controls["soft_fraction"].value = 0.85
    errors = {}
    for reference in (1.0, 0.4):
        explorer.controls["reference"].value = reference
        for passes in (1, 30):
            explorer.controls["passes"].value = passes
            errors[reference, passes] = float(explorer.line.value.split("error ")[1].split(" %")[0])
    assert errors[1.0, 30] < 1e-3 * errors[1.0, 1] and errors[0.4, 30] > 1e3 * errors[0.4, 1]


def test_the_kernel_that_cells_of_weak_contrast_teach_is_that_of_the_equation():
    explorer = explorers.explore_kernel(size=8)
    rest = {}
    for contrast in (2.0, 50.0):
        explorer.controls["contrast"].value = contrast
        rest[contrast] = float(explorer.line.value.split("rest ")[1].rstrip(" %"))
    assert rest[2.0] < 10 and rest[50.0] > 2 * rest[2.0]


@pytest.mark.parametrize("name", MOVED)
def test_a_player_stands_where_no_kernel_answers(name, monkeypatch):
    explorer = make(name)
    monkeypatch.setattr(explorer, "page", functools.cache(explorer.page))  # drawn once
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"] == explorer.page() and 'class="rln-figure rln-player"' in bundle["text/html"]
    assert bundle["text/html"].count("<img") == len(explorer.frames) > 2


@pytest.mark.parametrize("explore", [explorers.explore_solvers, explorers.explore_passes])
def test_a_contrast_without_a_network_is_refused(explore):
    with pytest.raises(ValueError, match="contrast"):
        explore(size=8, contrast=20.0)
