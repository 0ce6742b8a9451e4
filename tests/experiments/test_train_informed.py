"""The label-free training: resumed bit for bit, unharmed by a signal, and learning."""

import copy
import json
import os
import signal
import threading
import time

import pytest
import torch

import rlnlib
import ship
import train_informed as experiment
from rlnlib import informed, networks, runs, weight_files

TINY = {
    **experiment.RECIPE,
    **{"steps": 6, "batch_size": 4, "size": 6, "cells": 32, "warm_up": 2, "validate_every": 0},
}
NETWORK = {"passes": 1, "proximal": "three-layer"}


def test_a_run_that_was_cut_off_ends_with_the_same_weights_bit_for_bit(tmp_path):
    whole = experiment.train(tmp_path / "whole", TINY, NETWORK).state_dict()
    assert experiment.read_checkpoint(tmp_path / "whole" / "checkpoint.pt")["state"]["step"] == 6
    for until in (1, 4, None):
        parts = experiment.train(tmp_path / "parts", TINY, NETWORK, until=until).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in parts.items())
    other = experiment.train(tmp_path / "other", {**TINY, "seed": 1}, NETWORK).state_dict()
    assert not all(torch.equal(value, whole[name]) for name, value in other.items())


def test_one_thread_of_torch_gives_the_same_weights_as_two(tmp_path):
    threads = torch.get_num_threads()
    try:
        models = []
        for count in (1, 2):
            torch.set_num_threads(count)
            models.append(experiment.train(tmp_path / str(count), TINY, NETWORK).state_dict())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_a_termination_signal_leaves_a_checkpoint_that_goes_on(tmp_path):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    started = time.monotonic()
    experiment.train(tmp_path, {**TINY, "steps": 10**6}, NETWORK)
    assert time.monotonic() - started < 60
    step = experiment.read_checkpoint(tmp_path / "checkpoint.pt")["state"]["step"]
    experiment.train(tmp_path, {**TINY, "steps": step + 1}, NETWORK)
    state = experiment.read_checkpoint(tmp_path / "checkpoint.pt")["state"]
    assert state["step"] == step + 1 and state["ends"] == [[0, 10**6], [step, step + 1]]


def test_a_damaged_checkpoint_or_another_recipe_is_refused(tmp_path):
    experiment.train(tmp_path, TINY, NETWORK, until=1)
    with pytest.raises(OSError, match="another recipe"):
        experiment.train(tmp_path, {**TINY, "seed": 3}, NETWORK)
    path = tmp_path / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="damaged"):
        experiment.train(tmp_path, TINY, NETWORK)


def test_a_few_steps_lower_the_error_without_a_label(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "HELD_OUT", 8)
    monkeypatch.setattr(experiment, "CONTRASTS", (10.0,))
    recipe = {**TINY, "steps": 60, "batch_size": 8, "validate_every": 30, "learning_rate": 5e-3}
    experiment.train(tmp_path, recipe, {"passes": 2, "proximal": "three-layer"})
    curve = json.loads((tmp_path / "learning_curve.json").read_text())
    (_, _, truth), *_ = experiment.validation_set(6)
    untrained = float((truth - 1).abs().flatten(1).mean(1).mean()) * 100
    assert [row["step"] for row in curve] == [30, 60]
    assert curve[-1]["mase_10"] < 0.7 * untrained


def test_a_run_is_shipped_with_its_learning_curve_and_the_errors_of_its_test_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path / "pretrained")
    for name, value in {"HELD_OUT": 2, "TESTED": 3, "CONTRASTS": (10.0,)}.items():
        monkeypatch.setattr(experiment, name, value)
    model = experiment.train(tmp_path, {**TINY, "validate_every": 3}, NETWORK)
    experiment.save(model, tmp_path, tmp_path / "informed.safetensors")
    name, about = ship.ship_file(tmp_path / "informed.safetensors")
    curve = runs.read_learning_curve(tmp_path / "pretrained", "informed.learning_curve.csv")
    assert name == "informed" and [row["step"] for row in curve] == [3, 6]
    limit = {"largest_contrast": about["recipe"]["largest_contrast"]}
    assert rlnlib.load_pretrained("informed").config == {**about["config"], **limit}
    cells = experiment.random_cells(3, 6, experiment.TEST_SEED)
    truth = rlnlib.solve_strain(cells, 10, rtol=1e-6).strain[:, 0]
    errors = rlnlib.mase(rlnlib.predict(model, cells, 10).strain[:, 0], truth).tolist()
    assert about["mase_by_contrast"]["10"] == pytest.approx(errors, abs=1e-3)


def test_a_batch_has_the_contrasts_phases_ratios_and_loads_that_the_recipe_says():
    cells = torch.rand(8, 4, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    recipe = {**experiment.RECIPE, "batch_size": 1000, "size": 4}
    batch = informed.Cells(*experiment.draw(cells, recipe, 0))
    lam, mu = batch.problem.moduli.unbind(1)
    axial = (batch.macroscopic_strain[:, 0] == 1).float().mean()
    poisson = (lam / (2 * (lam + mu))).flatten(1)
    common = ((poisson - 0.3).abs().amax(1) < 1e-5).float().mean()
    phases = torch.tensor([len(voxels.unique()) for voxels in lam.flatten(1)])
    contrast = (2 * mu * (1 + poisson.view_as(mu))).flatten(1).amax(1)
    assert abs(axial - 0.75) < 0.08 and abs(common - 0.85) < 0.08
    assert abs((phases > 2).float().mean() - 0.15) < 0.08 and int(phases.max()) == 4
    assert 1 <= contrast.min() < 1.2 and 200 < contrast.max() <= 300.01


@pytest.mark.parametrize("loss", ["energy", "residual", "strain"])
def test_each_loss_and_the_larger_cells_train_and_resume(loss, tmp_path):
    recipe = {**TINY, "loss": loss, "large": 0.5, "large_size": 8, "pass_weights": [2.0]}
    assert len({experiment.is_large(recipe, step) for step in range(6)}) == 2
    whole = experiment.train(tmp_path / "whole", recipe, NETWORK).state_dict()
    for until in (3, None):
        parts = experiment.train(tmp_path / "parts", recipe, NETWORK, until=until).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in parts.items())


def test_the_recipe_and_the_network_are_options(tmp_path, monkeypatch):
    given = {"steps": 1, "size": 6, "cells": 8, "batch-size": 2, "validate-every": 0, "passes": 2, "tied": True}
    given |= {"answer": "polarization", "folder": tmp_path}
    command = ["train_informed.py", "--pass-weights", "1", "3"]
    command += [word for name, value in given.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", command)
    experiment.main()
    saved = experiment.read_checkpoint(tmp_path / "checkpoint.pt")
    assert saved["recipe"]["pass_weights"] == [1.0, 3.0] and saved["config"]["answer"] == "polarization"
    assert saved["config"]["tied"] is True and (tmp_path / "informed.safetensors").exists()
    monkeypatch.setattr("sys.argv", [*command, "--passes", "3"])
    with pytest.raises(SystemExit):
        experiment.main()


def test_a_batch_that_other_processes_draw_has_the_gradient_of_the_threads(monkeypatch):
    """The path of a GPU, here on a CPU: whole batches, cells of two sizes, padding by one gather."""
    monkeypatch.setattr(networks, "pad_periodic", networks.pad_periodic)  # puts it back at the end
    monkeypatch.setattr(experiment.training, "fast_precision", lambda device: "32-true")  # as those on the GPU's path
    recipe = {**TINY, "batch_size": 8, "large": 0.5, "large_size": 9, "seed": 2}
    sets = {False: experiment.random_cells(8, 6, 1), True: experiment.random_cells(4, 9, 2)}
    torch.manual_seed(0)
    model = informed.InformedRLN(passes=2, proximal="vnet-periodic")
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    here, there = experiment.OnThreads(copy.deepcopy(model), recipe, sets, 0), copy.deepcopy(model)
    expected = []
    for step in range(4):
        loss = here.gradient(step)
        expected.append((loss, torch.cat([p.grad.flatten().clone() for p in here.model.parameters()])))
    here.close()
    batches = experiment.OnGPU(there, recipe, sets, 0)
    for loss, gradient in expected:
        assert float(batches.gradient(0)) == pytest.approx(loss, rel=1e-5)
        found = torch.cat([p.grad.flatten() for p in there.parameters()])
        assert float((found - gradient).norm() / gradient.norm()) < 5e-3  # small differences of float32 sums
    batches.close()
    assert len({experiment.is_large(recipe, step) for step in range(4)}) == 2


def test_a_run_begins_with_given_weights_and_ends_in_its_time(tmp_path, monkeypatch):
    for name, value in {"TESTED": 2, "CONTRASTS": (10.0,)}.items():
        monkeypatch.setattr(experiment, name, value)
    first = experiment.train(tmp_path / "first", {**TINY, "steps": 2}, NETWORK)
    experiment.save(first, tmp_path / "first", tmp_path / "first.safetensors")
    recipe = {**TINY, "steps": 10**6, "minutes": 0.02, "start": str(tmp_path / "first.safetensors")}
    again = experiment.train(tmp_path / "again", recipe, NETWORK, until=0)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    experiment.train(tmp_path / "again", recipe, NETWORK)
    state = experiment.read_checkpoint(tmp_path / "again" / "checkpoint.pt")["state"]
    assert 0 < state["step"] < 10**6 and 1.2 <= state["seconds"] < 60
    assert experiment.rate(recipe, state["step"], 1.0) == 0
    experiment.save(first, tmp_path / "again", tmp_path / "again.safetensors")
    begun = weight_files.read_header(tmp_path / "again.safetensors")["recipe"]["start"]
    assert begun["recipe"]["steps"] == 2 and begun["metrics"]["presented"] == 8 and len(begun["sha256"]) == 64
