import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rlnlib
from rlnlib import training
from rlnlib.metrics import mase
from rlnlib.rln import KINDS, RLN
from rlnlib.training import TrainingConfig, train


@pytest.fixture(scope="module")
def sets():
    cells = rlnlib.generate_cells(24, size=6, grain_size=(1, 4), seed=0)
    strain = rlnlib.solve_strain(cells, 10.0, rtol=1e-4, dtype=torch.float32).strain[:, 0]
    cells = torch.from_numpy(cells)
    return (cells[:16], strain[:16]), (cells[16:], strain[16:])


KILLS = Path(__file__).resolve().parent / "stress" / "kill_training.py"
CONFIG = TrainingConfig(epochs=4, batch_size=6, augment=True)


def model(kind="fln"):
    torch.manual_seed(0)
    return RLN(**KINDS[kind])


@pytest.mark.parametrize("loss", training.LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_and_the_best_epoch_is_kept(kind, loss, sets, tmp_path):
    network = model(kind)
    history = train(network, *sets, dataclasses.replace(CONFIG, loss=loss, epochs=6), tmp_path, device="cpu")
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["training_loss"] < 0.9 * history[0]["training_loss"]
    error = float(rlnlib.mase(rlnlib.predict_strain(network, sets[1][0]), sets[1][1]).mean())
    assert error == pytest.approx(min(row["validation_mase"] for row in history), rel=1e-4)
    for stored, row in zip(training.read_history(tmp_path), history, strict=True):
        assert stored == pytest.approx(row)


def test_learning_rate_falls_along_a_cosine(sets, tmp_path):
    history = train(model(), *sets, CONFIG, tmp_path, device="cpu")
    assert history[-1]["learning_rate"] < 0.02 * CONFIG.learning_rate
    assert training._rate(CONFIG, 0) == 2e-3
    assert training._rate(CONFIG, 0.5) == pytest.approx(1e-3, rel=1e-4)
    assert training._rate(CONFIG, 1) == pytest.approx(1e-8)


def test_the_bar_counts_down_to_the_minutes(sets, tmp_path, capsys):
    """What remains is the time that the recipe leaves, not that of epochs which it cuts off; a resumed run too."""
    config = dataclasses.replace(CONFIG, epochs=100_000, max_minutes=0.05)
    with pytest.raises(training.Unfinished):
        train(model(), *sets, config, tmp_path, device="cpu", progress=True, slice_minutes=0.025)
    train(model(), *sets, config, tmp_path, device="cpu", progress=True)
    remaining = re.findall(r"<(?:(\d+):)?(\d+):(\d+),", capsys.readouterr().err)
    assert len(remaining) > 10
    assert max(3600 * int(h or 0) + 60 * int(m) + int(s) for h, m, s in remaining) < 30


def test_losses_are_those_of_the_text_and_of_the_code():
    target = torch.full((2, 1, 2, 2, 2), 2.0)
    iterates = [target + 1, target - 3]
    errors = training.pass_errors(iterates, target, "mse")
    assert float(training.training_loss(errors, target.mean(), "mse")) == pytest.approx(1 + 9)
    assert float(training.training_loss(errors, target.mean(), "rmse")) == pytest.approx(100 * (1 + 3) / 2 / 2)
    weights = torch.tensor([2.0, 1.0])
    assert float(training.training_loss(errors, target.mean(), "mse", weights)) == pytest.approx(2 + 9)
    absolute = training.pass_errors(iterates, target, "mae")
    assert float(training.training_loss(absolute, target.mean(), "mae")) == pytest.approx(100 * (1 + 3) / 2 / 2)
    weighted = training.training_loss(absolute, target.mean(), "mae", weights)
    assert float(weighted) == pytest.approx(100 * (2 + 3) / 2 / 2)


def test_the_absolute_loss_is_the_measure_itself():
    """ "mae" of one pass is the mean over the cells of MASE (eq. 29) where their mean strain is 1."""
    target = 1 + 0.1 * torch.randn(3, 1, 4, 4, 4)
    target /= target.mean((2, 3, 4), keepdim=True)
    predicted = target + 0.1 * torch.randn_like(target)
    errors = training.pass_errors([predicted], target, "mae")
    loss = float(training.training_loss(errors, target.mean(), "mae"))
    assert loss == pytest.approx(float(mase(predicted[:, 0], target[:, 0]).mean()), rel=1e-5)


@pytest.mark.parametrize(("control", "code", "outcome"), [((), 0, "equal bit for bit"), (("--control",), 1, "DIFFER")])
def test_a_killed_and_resumed_run_equals_an_undisturbed_one(control, code, outcome):
    """Three kills; the script makes as many as it is asked for. The control forgets the optimizer's state."""
    command = [sys.executable, str(KILLS), "--kills", "3", "--epochs", "8", *control]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "killed 3 times" in done.stdout and outcome in done.stdout, done.stdout + done.stderr
    assert done.returncode == code


def test_a_finished_run_is_only_read(sets, tmp_path):
    first = model()
    history = train(first, *sets, CONFIG, tmp_path, device="cpu")
    stamp = (tmp_path / training.CHECKPOINT).stat().st_mtime_ns
    again = RLN(**KINDS["fln"])
    assert train(again, *sets, CONFIG, tmp_path, device="cpu") == history
    assert (tmp_path / training.CHECKPOINT).stat().st_mtime_ns == stamp
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_run_with_another_recipe_or_a_damaged_checkpoint_is_refused(sets, tmp_path):
    train(model(), *sets, CONFIG, tmp_path, device="cpu")
    with pytest.raises(OSError, match="another recipe"):
        train(model(), *sets, dataclasses.replace(CONFIG, seed=1), tmp_path, device="cpu")
    with pytest.raises(OSError, match="another recipe"):
        train(model("rln-t"), *sets, CONFIG, tmp_path, device="cpu")
    checkpoint = tmp_path / training.CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(OSError, match="damaged"):
        train(model(), *sets, CONFIG, tmp_path, device="cpu")


@pytest.mark.parametrize("spoiled", ["loss", "gradient"])
@pytest.mark.parametrize("batch", [4, 5, 6], ids=["first of an epoch", "second", "last"])
def test_a_loss_that_is_not_finite_ends_the_run_and_spares_the_checkpoint(spoiled, batch, sets, tmp_path, monkeypatch):
    """Three batches make an epoch. Once the cause is gone, the run goes on to the end of an undisturbed one."""
    calm = train(model(), *sets, CONFIG, tmp_path / "calm", device="cpu")
    loss_of, calls = training.training_loss, 0

    def bad_once(errors, *others):
        nonlocal calls
        calls += 1
        if calls != batch:
            return loss_of(errors, *others)
        if spoiled == "gradient":
            errors.register_hook(lambda gradient: gradient * float("nan"))
        return loss_of(errors, *others) * (1 if spoiled == "gradient" else float("nan"))

    monkeypatch.setattr(training, "training_loss", bad_once)
    with pytest.raises(FloatingPointError, match="epoch 2: lower the learning rate"):
        train(model(), *sets, CONFIG, tmp_path / "spoiled", device="cpu")
    again = train(model(), *sets, CONFIG, tmp_path / "spoiled", device="cpu")
    for one, other in zip(again, calm, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_time_runs_out_where_it_is_limited(sets, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=100_000, max_minutes=0.05)
    history = train(model(), *sets, config, tmp_path, device="cpu")
    assert 1 <= len(history) < 100_000
    assert history[-1]["learning_rate"] < 0.2 * CONFIG.learning_rate
    assert train(model(), *sets, config, tmp_path, device="cpu") == history


def test_augmented_pairs_are_pairs(sets):
    """The strain of the moved cell is the moved strain: the symmetries are exact for this load."""
    (cells, _), _ = sets
    exact = rlnlib.solve_strain(cells[:6], 10.0, rtol=1e-10).strain[:, 0]
    moved, field = training.augmented(cells[:6], exact, torch.Generator().manual_seed(0))
    again = rlnlib.solve_strain(moved, 10.0, rtol=1e-10).strain[:, 0]
    assert (again - field).abs().max() < 1e-7
    assert not torch.equal(moved, cells[:6])
    # Exchanging the loaded axis is no symmetry.
    turned = rlnlib.solve_strain(cells[:6].transpose(1, 3), 10.0, rtol=1e-10).strain[:, 0]
    assert (turned - exact.transpose(1, 3)).abs().max() > 0.1


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 1.5},
        {"learning_rate": -1.0},
        {"loss": "max"},
        {"precision": "int8"},
        {"max_minutes": 0.0},
    ],
)
def test_bad_recipes_are_refused(change):
    with pytest.raises(ValueError):
        dataclasses.replace(CONFIG, **change)


def test_bad_sets_are_refused(sets, tmp_path):
    (cells, strain), held_out = sets
    for bad in ((cells[:0], strain[:0]), (cells, strain[:3]), (cells, strain * float("nan"))):
        with pytest.raises(ValueError, match="train_set"):
            train(model(), bad, held_out, CONFIG, tmp_path, device="cpu")


def test_bfloat16_is_not_taken_for_fast_where_the_environment_keeps_torch_from_it():
    code = "from rlnlib import training; print(training.fast_precision('cpu'))"
    capped = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", code], env=capped, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "32-true"
