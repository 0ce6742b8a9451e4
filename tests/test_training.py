import dataclasses
import errno
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import rlnlib
from rlnlib import _files, dataset, networks, runs, symmetry, training
from rlnlib.fast import processes
from rlnlib.metrics import mase
from rlnlib.rln import KINDS, RLN
from rlnlib.runs import train
from rlnlib.training import TrainingConfig


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


#: Every loss, and every kind of network: a loss sees only what the passes give.
PAIRS = [*(("fln", loss) for loss in training.LOSSES), *((kind, "mae") for kind in KINDS if kind != "fln")]


@pytest.mark.parametrize(("kind", "loss"), PAIRS)
def test_the_loss_falls_and_the_best_epoch_is_kept(kind, loss, sets, tmp_path):
    network = model(kind)
    curve = train(network, *sets, dataclasses.replace(CONFIG, loss=loss, epochs=6), tmp_path, device="cpu")
    assert [row["epoch"] for row in curve] == [1, 2, 3, 4, 5, 6]
    assert curve[-1]["training_loss"] < 0.9 * curve[0]["training_loss"]
    error = float(rlnlib.mase(rlnlib.predict_strain(network, sets[1][0]), sets[1][1]).mean())
    assert error == pytest.approx(min(row["validation_mase"] for row in curve), rel=1e-4)
    for stored, row in zip(runs.read_learning_curve(tmp_path), curve, strict=True):
        assert stored == pytest.approx(row)


def test_the_loop_without_a_folder_ends_as_the_one_with_it(sets, tmp_path):
    bare, kept = model(), model()
    curve, known = training.train(bare, *sets, CONFIG, device="cpu"), train(kept, *sets, CONFIG, tmp_path, device="cpu")
    assert [{**row, "seconds": 0} for row in curve] == [{**row, "seconds": 0} for row in known]
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), kept.parameters(), strict=True))


def test_a_keeper_is_told_of_every_batch_and_epoch_and_may_end_the_run(sets):
    class Counter(training.Keeper):
        told = ()

        def done(self, run):
            return super().done(run) if run.state["epoch"] < 2 else 1.0

        def after_batch(self, run):
            self.told += ("batch",)

        def after_epoch(self, run):
            self.told += ("epoch",)

    counter = Counter()
    assert len(training.train(model(), *sets, CONFIG, counter, device="cpu")) == 2
    assert counter.told == ("batch", "batch", "batch", "epoch") * 2 + ("epoch",)


def test_what_the_loop_without_a_folder_cannot_do_is_refused_with_who_can(sets, tmp_path):
    with pytest.raises(ValueError, match=r"max_minutes needs a clock: call rlnlib\.runs\.train"):
        training.train(model(), *sets, dataclasses.replace(CONFIG, max_minutes=1), device="cpu")
    with pytest.raises(ValueError, match=r"keeper must be .* rlnlib\.runs\.train takes a folder"):
        training.train(model(), *sets, CONFIG, tmp_path, device="cpu")


def test_learning_rate_falls_along_a_cosine(sets, tmp_path):
    curve = train(model(), *sets, CONFIG, tmp_path, device="cpu")
    assert curve[-1]["learning_rate"] < 0.02 * CONFIG.learning_rate
    assert training._rate(CONFIG, 0) == 2e-3
    assert training._rate(CONFIG, 0.5) == pytest.approx(1e-3, rel=1e-4)
    assert training._rate(CONFIG, 1) == pytest.approx(1e-8)


def test_the_bar_counts_down_to_the_minutes(sets, tmp_path, capsys):
    """What remains is the time that the recipe leaves, not that of epochs which it cuts off; a resumed run too."""
    config = dataclasses.replace(CONFIG, epochs=100_000, max_minutes=0.1)
    with pytest.raises(runs.Unfinished):
        train(model(), *sets, config, tmp_path, device="cpu", progress=True, slice_minutes=0.02)
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


TWICE = """
import runpy, sys
for control in ([], ["--control"]):
    sys.argv[1:] = ["--kills", "3", "--epochs", "8", *control]
    try:
        runpy.run_path({script!r}, run_name="__main__")
    except SystemExit as ended:
        print("code", ended.code)
"""


def test_a_killed_and_resumed_run_equals_an_undisturbed_one():
    """Three kills; the script makes as many as it is asked for. The control forgets the optimizer's state."""
    command = [sys.executable, "-c", TWICE.format(script=str(KILLS))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    equal, control = done.stdout.split("code 0\n")
    assert "killed 3 times" in equal and "equal bit for bit" in equal, done.stdout
    assert "killed 3 times" in control and "DIFFER" in control and control.endswith("code 1\n"), done.stdout


def test_a_finished_run_is_only_read(sets, tmp_path):
    first = model()
    curve = train(first, *sets, CONFIG, tmp_path, device="cpu")
    stamp = (tmp_path / runs.CHECKPOINT).stat().st_mtime_ns
    again = RLN(**KINDS["fln"])
    assert train(again, *sets, CONFIG, tmp_path, device="cpu") == curve
    assert (tmp_path / runs.CHECKPOINT).stat().st_mtime_ns == stamp
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_what_is_no_data_set_recipe_or_device_is_refused(sets, tmp_path):
    with pytest.raises(ValueError, match=r"train_set must be a .*StrainDataset or a pair .* it is 'data.h5'"):
        train(model(), "data.h5", sets[1], CONFIG, tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"config must be a .*TrainingConfig"):
        training.train(model(), *sets, None, device="cpu")
    with pytest.raises(ValueError, match="device must be a device of this machine"):
        training.train(model(), *sets, CONFIG, device="tpu")


def test_an_interrupted_training_says_what_is_kept(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "step", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match="keeps all up to the last checkpoint: call again"):
        train(model(), *sets, CONFIG, tmp_path, device="cpu")


def test_a_network_without_parameters_is_refused(sets, tmp_path):
    network = RLN(passes=1, proximal=lambda inputs: torch.nn.AvgPool3d(1))
    with pytest.raises(ValueError, match="has no parameter to train"):
        train(network, *sets, CONFIG, tmp_path, device="cpu")


def test_a_run_with_another_recipe_or_a_damaged_checkpoint_is_refused(sets, tmp_path):
    train(model(), *sets, CONFIG, tmp_path, device="cpu")
    with pytest.raises(OSError, match=r"another recipe \(seed 0 there, 1 here\): choose another folder"):
        train(model(), *sets, dataclasses.replace(CONFIG, seed=1), tmp_path, device="cpu")
    with pytest.raises(OSError, match=r"another network \(passes 1 there, 5 here; tied"):
        train(model("rln-t"), *sets, CONFIG, tmp_path, device="cpu")
    checkpoint = tmp_path / runs.CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(OSError, match="damaged"):
        train(model(), *sets, CONFIG, tmp_path, device="cpu")


def test_a_run_with_other_data_is_refused_with_what_differs(tmp_path):
    """Contrast and seed, where a data set says them; else the hash of the numbers."""
    data = [
        dataset.make_dataset(tmp_path / f"{c}.h5", 20, size=6, grain_size=(1, 3), contrast=c, seed=s)
        for c, s in ((5.0, 0), (7.0, 1))
    ]
    parts = [[dataset.StrainDataset(path, split) for split in ("train", "validation")] for path in data]
    config = dataclasses.replace(CONFIG, epochs=1)
    train(model(), *parts[0], config, tmp_path / "run", device="cpu")
    assert len(train(model(), *parts[0], config, tmp_path / "run", device="cpu")) == 1
    words = "another data .*contrast 5.0 there, 7.0 here; seed 0 there, 1 here"
    with pytest.raises(OSError, match=words):
        train(model(), *parts[1], config, tmp_path / "run", device="cpu")
    stiff, strain = parts[0][0].tensors()
    train(model(), (stiff, strain), (stiff, strain), config, tmp_path / "pairs", device="cpu")
    strain[3, 1, 2, 3] += 1e-4
    with pytest.raises(OSError, match=r"another data .*sha256"):
        train(model(), (stiff, strain), (stiff, strain), config, tmp_path / "pairs", device="cpu")


def test_a_checkpoint_of_which_a_bit_has_flipped_is_neither_read_nor_resumed(sets, tmp_path):
    """torch.load alone notices one in forty; the untouched file is read."""
    train(model(), *sets, dataclasses.replace(CONFIG, epochs=1), tmp_path, device="cpu")
    checkpoint = tmp_path / runs.CHECKPOINT
    content = checkpoint.read_bytes()
    for place in range(7, len(content), len(content) // 60):
        checkpoint.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(OSError, match="damaged"):
            runs.read_run(tmp_path)
    with pytest.raises(OSError, match="damaged"):
        train(model(), *sets, dataclasses.replace(CONFIG, epochs=1), tmp_path, device="cpu")
    checkpoint.write_bytes(content)
    assert len(runs.read_run(tmp_path)[2]) == 1


@pytest.mark.parametrize(
    "saved", [{"model": {}, "config": {}}, {**dict.fromkeys(runs.PARTS), "state": {"history": []}}]
)
def test_a_checkpoint_without_its_parts_is_refused_in_words(saved, tmp_path):
    runs.write_checkpoint(tmp_path, saved)
    with pytest.raises(OSError, match="does not hold what a checkpoint"):
        runs.read_run(tmp_path)


def test_numbers_of_numpy_in_a_recipe_or_a_network_are_stored_as_pythons_own(sets, tmp_path):
    """So that the run can be resumed, and its network saved."""

    def run():
        config = dataclasses.replace(
            CONFIG, epochs=np.int64(1), learning_rate=np.float64(1e-3), augment=np.bool_(True), pass_weights=np.ones(1)
        )
        network = RLN(passes=np.int64(1), tied=np.bool_(False), history=np.int32(2))
        return network, train(network, *sets, config, tmp_path, device="cpu")

    _, curve = run()
    network, again = run()
    assert again == curve
    rlnlib.weight_files.save_weights(tmp_path / "weights.safetensors", network)
    assert rlnlib.weight_files.load_weights(tmp_path / "weights.safetensors").config == network.config


@pytest.mark.parametrize("left", ["nothing", "a row less"])
def test_a_learning_curve_that_a_kill_left_short_is_written_again(left, sets, tmp_path):
    curve = train(model(), *sets, CONFIG, tmp_path, device="cpu")
    table = tmp_path / runs.LEARNING_CURVE
    whole = table.read_text(encoding="utf-8")
    table.unlink()
    if left == "a row less":
        table.write_text("".join(whole.splitlines(keepends=True)[:-1]), encoding="utf-8")
    train(model(), *sets, CONFIG, tmp_path, device="cpu")
    assert table.read_text(encoding="utf-8") == whole and len(runs.read_learning_curve(tmp_path)) == len(curve)


def test_a_second_training_in_the_same_folder_is_refused_while_the_first_is_at_work(sets, tmp_path):
    with _files.locked(tmp_path), pytest.raises(OSError, match="Another process works in"):
        train(model(), *sets, CONFIG, tmp_path, device="cpu")
    assert not (tmp_path / runs.CHECKPOINT).exists()
    assert len(train(model(), *sets, CONFIG, tmp_path, device="cpu")) == CONFIG.epochs


def test_a_full_disk_says_what_to_do_and_the_run_goes_on_afterwards(sets, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"could not be written .*make room"):
            train(model(), *sets, CONFIG, tmp_path, device="cpu")
    assert not list(tmp_path.glob("*.partial"))
    assert len(train(model(), *sets, CONFIG, tmp_path, device="cpu")) == CONFIG.epochs


class OwnNetwork(torch.nn.Module):
    """A network of a user's module."""

    def __init__(self, channels):
        super().__init__()
        self.layers = torch.nn.Sequential(
            networks.PeriodicConv3d(channels, 4), networks.PReLU(4), networks.PeriodicConv3d(4, 1)
        )

    def forward(self, field):
        return self.layers(field)


def other_network(channels):
    return networks.PeriodicConv3d(channels, 1)


def test_an_own_network_is_trained_cut_resumed_read_saved_loaded_and_scored(sets, tmp_path):
    def own():
        torch.manual_seed(0)
        return RLN(passes=2, proximal=OwnNetwork)

    network = own()
    assert network.config["proximal"] == f"{OwnNetwork.__module__}:OwnNetwork"
    calm = train(network, *sets, CONFIG, tmp_path / "calm", device="cpu")
    config = dataclasses.replace(CONFIG)
    cuts = 0
    while True:
        again = own()
        try:
            curve = train(again, *sets, config, tmp_path / "cut", device="cpu", slice_minutes=0.0005)
            break
        except runs.Unfinished:
            cuts += 1
    assert cuts > 0 and [{**r, "seconds": 0} for r in curve] == [{**r, "seconds": 0} for r in calm]
    with pytest.raises(ValueError, match="pass the function or class that makes it"):
        runs.read_run(tmp_path / "cut")
    with pytest.raises(ValueError, match=r"not .*other_network"):
        runs.read_run(tmp_path / "cut", other_network)
    read, _, _ = runs.read_run(tmp_path / "cut", OwnNetwork)
    path = tmp_path / "own.safetensors"
    rlnlib.weight_files.save_weights(path, read)
    with pytest.raises(ValueError, match="the word of a file alone"):
        rlnlib.weight_files.load_weights(path)
    loaded = rlnlib.weight_files.load_weights(path, OwnNetwork)
    assert torch.equal(rlnlib.predict_strain(loaded, sets[1][0]), rlnlib.predict_strain(network, sets[1][0]))
    assert loaded.with_options(batch_mean=True).config["proximal"] == network.config["proximal"]
    with pytest.raises(OSError, match="another network"):
        train(RLN(passes=2, proximal=other_network), *sets, CONFIG, tmp_path / "cut", device="cpu")


@pytest.fixture(scope="module")
def calm(sets, tmp_path_factory):
    """The learning curve of a training that nothing disturbs."""
    return train(model(), *sets, CONFIG, tmp_path_factory.mktemp("calm"), device="cpu")


@pytest.mark.parametrize("spoiled", ["loss", "gradient"])
@pytest.mark.parametrize("batch", [4, 5, 6], ids=["first of an epoch", "second", "last"])
def test_a_loss_that_is_not_finite_ends_the_run_and_spares_the_checkpoint(
    spoiled, batch, sets, calm, tmp_path, monkeypatch
):
    """Three batches make an epoch. Once the cause is gone, the run goes on to the end of an undisturbed one."""
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
    curve = train(model(), *sets, config, tmp_path, device="cpu")
    assert 1 <= len(curve) < 100_000
    assert curve[-1]["learning_rate"] < 0.2 * CONFIG.learning_rate
    assert train(model(), *sets, config, tmp_path, device="cpu") == curve


def test_augmented_pairs_are_pairs(sets):
    """The strain of the moved cell is the moved strain: the symmetries are exact for this load."""
    (cells, _), _ = sets
    exact = rlnlib.solve_strain(cells[:6], 10.0, rtol=1e-10).strain[:, 0]
    moves = symmetry.draw_moves(6, torch.Generator().manual_seed(0))
    moved, field = symmetry.moved_by(cells[:6], moves), symmetry.moved_by(exact, moves)
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
        {"warm_up": ""},
        {"pass_weights": 7},
        {"pass_weights": (0.0, 0.0)},
        {"augment": "no"},
        {"seed": 0.5},
        {"seed": -1},
    ],
)
def test_bad_recipes_are_refused(change):
    with pytest.raises(ValueError):
        dataclasses.replace(CONFIG, **change)


def test_weights_of_the_passes_are_a_sequence():
    assert dataclasses.replace(CONFIG, pass_weights=[1, 2]).pass_weights == (1.0, 2.0)
    with pytest.raises(ValueError, match="must be a sequence"):
        dataclasses.replace(CONFIG, pass_weights=iter([1, 2]))


def test_bad_sets_are_refused(sets, tmp_path):
    (cells, strain), held_out = sets
    for bad in (
        0,
        None,
        (cells,),
        ("a", "b"),
        (cells[:0], strain[:0]),
        (cells, strain[:3]),
        (cells, strain * float("nan")),
    ):
        with pytest.raises(ValueError, match="train_set"):
            train(model(), bad, held_out, CONFIG, tmp_path, device="cpu")


def test_bfloat16_is_not_taken_for_fast_where_the_environment_keeps_torch_from_it():
    code = "from rlnlib import training; print(training.fast_precision('cpu'))"
    capped = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", code], env=capped, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "32-true"


def test_a_machine_with_slurm_gives_no_warning_of_its_own(tmp_path, monkeypatch):
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert processes.start("cpu", "32-true").world_size == 1


def test_a_run_goes_on_with_as_many_processes_as_it_began_with(sets, tmp_path):
    def go_on(**options):
        return train(RLN(passes=2), *sets, TrainingConfig(epochs=2, batch_size=4), tmp_path, device="cpu", **options)

    def change_processes(before, after):
        saved = runs.read_checkpoint(tmp_path)
        assert saved["state"]["processes"] == before
        runs.write_checkpoint(tmp_path, {**saved, "state": {**saved["state"], "processes": after}})

    with pytest.raises(runs.Unfinished):
        go_on(slice_minutes=1e-9)
    change_processes(1, 2)
    with pytest.raises(OSError, match=r"holds a run of 2 processes, .* and here are 1: start as many again, or choose"):
        go_on()
    change_processes(2, 1)
    curve = go_on()
    change_processes(1, 2)
    assert go_on() == curve  # a finished run is only read
