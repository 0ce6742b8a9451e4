import re
import runpy
import sys
from dataclasses import replace

import pytest
from forks import begin, ended
from torch.distributed.run import main as torchrun

import pages
from rlnlib import reproduce, runs, weight_files
from rlnlib.reproduce import PROFILES, Profile, Stage
from rlnlib.training import TrainingConfig

DATA = {"n": 20, "size": 6, "repeats": 5, "grain_size": (1, 3)}
PROFILE = Profile((Stage(DATA, TrainingConfig(epochs=2, batch_size=8, loss="rmse", augment=True)),))
#: Small cells, then larger ones of an odd size, for two kinds of networks.
STAGED = Profile(
    stages=(
        Stage({**DATA, "size": 4}, reproduce._recipe(epochs=2, batch_size=8), splits=("train", "test")),
        Stage({**DATA, "size": 7}, reproduce._recipe(epochs=1, batch_size=4, seed=1), proximal="vnet-periodic"),
    ),
    kinds=("fln", "rln-t"),
    validation_cells=3,
)


def names(results):
    return [name for name in results if name != "left"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder, and what a run at one go made in it."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, reproduce.reproduce(PROFILE, folder, "cpu")


def test_all_six_networks_come_out_with_their_errors_and_weights(whole, tmp_path, monkeypatch):
    folder, results = whole
    assert names(results) == ["rln-50", "rln-10", "rln-t-50", "rln-t-10", "fln-50", "fln-10"] and "left" not in results
    for name, found in results.items():
        assert found["interval"][0] <= found["mase_mean"] <= found["interval"][1]
        assert found["test_cells"] == len(found["mase"]) == 8
        header = weight_files.read_header(folder / f"{name}.safetensors")
        assert header["metrics"]["mase_mean"] == found["mase_mean"]
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path / "pretrained")
    for name in results:
        assert weight_files.ship(folder / f"{name}.safetensors") == f"{name}-6"
    assert pages.model_cards().count("| 8 |") == 6  # test cells of each
    assert "contrast 50" in reproduce.table(results)


def test_a_cut_run_says_what_is_left_and_goes_on_to_the_same_end(whole, tmp_path):
    cut, calls = {"left": {}}, 0
    while "left" in cut:
        cut, calls = reproduce.reproduce(PROFILE, tmp_path / "cut", "cpu", max_minutes=1e-6), calls + 1
        if "left" in cut:
            assert len(names(cut)) + len(cut["left"]["networks"]) == 6
        assert calls < 200
    assert calls > 5
    assert {k: v["mase"] for k, v in cut.items()} == {k: v["mase"] for k, v in whole[1].items()}


def test_the_command_is_idempotent(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PROFILES, "ci", PROFILE)
    command = ["--profile", "ci", "--out", str(tmp_path), "--device", "cpu"]
    assert reproduce.main(command) == 0
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "results.json"}
    text = (tmp_path / "results.json").read_text()
    assert reproduce.main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert (tmp_path / "results.json").read_text() == text
    assert "Complete" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")  # of several processes one speaks, and writes
    (tmp_path / "results.json").unlink()
    assert reproduce.main(command) == 0 and capsys.readouterr().out == ""
    assert not (tmp_path / "results.json").exists()


def test_the_shortest_slice_makes_a_step_and_says_what_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PROFILES, "ci", PROFILE)
    command = ["--profile", "ci", "--out", str(tmp_path), "--device", "cpu"]
    assert reproduce.main([*command, "--max-minutes", "1e-6"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"the first is at training on cells of 6\^3, which still needs about \d\.\d minutes", said)


def test_who_stops_the_command_reads_that_what_is_done_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "reproduce", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert reproduce.main(["--profile", "ci", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "stopped; what is done is kept: run the same command again to go on\n"


def test_a_folder_of_another_profile_is_refused(tmp_path, monkeypatch, capsys):
    reproduce.reproduce(PROFILE, tmp_path, "cpu", max_minutes=1e-6)
    monkeypatch.setitem(PROFILES, "ci", replace(PROFILE, stages=(replace(PROFILE.stages[0], data={**DATA, "n": 40}),)))
    assert reproduce.main(["--profile", "ci", "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert "other parameters" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("WORLD_SIZE", ""), ("LOCAL_WORLD_SIZE", "0")])
def test_an_environment_that_torchrun_did_not_make_is_named(name, value, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PROFILES, "ci", PROFILE)
    monkeypatch.setenv(name, value)
    assert reproduce.main(["--profile", "ci", "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert f"{name}={value!r}" in capsys.readouterr().err


def test_a_training_in_stages_goes_from_small_cells_to_large_ones_and_survives_cuts(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "_BLOCK", 3)
    whole = reproduce.reproduce(STAGED, tmp_path / "whole", "cpu")
    assert names(whole) == ["fln-50", "fln-10", "rln-t-50", "rln-t-10"]
    cut, doing = {"left": {}}, set()
    while "left" in cut:
        cut = reproduce.reproduce(STAGED, tmp_path / "cut", "cpu", max_minutes=1e-6)
        doing.add(cut.get("left", {}).get("doing", "")[:25])
        assert len(doing) < 50
    assert {"training on cells of 4^3", "training on cells of 7^3"} <= doing
    assert {k: v["mase"] for k, v in cut.items()} == {k: v["mase"] for k, v in whole.items()}
    found = whole["rln-t-10"]
    assert [stage["epochs"] for stage in found["recipe"]] == [2, 1] and found["recipe"][0]["data"]["size"] == 4
    assert found["recipe"][1]["pass_weights"] and not whole["fln-10"]["recipe"][1]["pass_weights"]
    assert found["training_cells"] == 8 and found["epochs"] == 3 and found["worst_voxel"] > found["mase_mean"]
    assert weight_files.load_weights(tmp_path / "cut" / "rln-t-10.safetensors").config["proximal"] == "vnet-periodic"
    paired = reproduce.differences(whole)["10"]["fln - rln-t"]
    assert paired["mean"] == pytest.approx(whole["fln-10"]["mase_mean"] - found["mase_mean"], abs=1e-3)
    assert "fln - rln-t" in reproduce.table(whole)


def test_table_1_presents_as_many_cells_to_each_network():
    """The paper's cells and split in the last stage, 20,480 presentations of them or more."""
    profile = PROFILES["table-1"]
    small, large = profile.stages
    assert large.data == PROFILES["paper"].stages[0].data and large.splits == ("train",)
    shares = {"train": 0.4, "validation": 0.2, "test": 0.4}
    presented = [
        round(stage.data["n"] * sum(shares[part] for part in stage.splits)) * stage.config.epochs
        for stage in profile.stages
    ]
    assert presented == [131_072, 24_576] and "validation" not in small.splits
    assert all(stage.config.max_minutes is None for stage in profile.stages)


def test_two_processes_make_the_steps_of_one_with_twice_the_batch(tmp_path, monkeypatch):
    """Started by torchrun; the losses agree to rounding. One process with the batch of each of the two has others."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch, rlnlib\n"
        "from rlnlib import runs, training\n"
        "torch.set_num_threads(1)\n"
        "cells = rlnlib.generate_cells(24, size=6, grain_size=(1, 3))\n"
        "strain = rlnlib.solve_strain(cells, 10.0, rtol=1e-4).strain[:, 0].float()\n"
        "cells = torch.from_numpy(cells)\n"
        "sets = (cells[:16], strain[:16]), (cells[16:], strain[16:])\n"
        "for loss in ('mse', 'rmse'):\n"
        "    torch.manual_seed(0)\n"
        "    config = training.TrainingConfig(\n"
        "        epochs=2, batch_size=int(sys.argv[2]), augment=True, loss=loss, learning_rate=1e-4\n"
        "    )\n"
        "    runs.train(rlnlib.RLN(passes=2), *sets, config, f'{sys.argv[1]}-{loss}', device='cpu')\n"
    )

    def here(name, batch):
        monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path / name), str(batch)])
        runpy.run_path(str(script))

    def losses(name, loss):
        rows = runs.read_learning_curve(tmp_path / f"{name}-{loss}")
        return [row[key] for row in rows for key in ("training_loss", "validation_mase")]

    command = ["--standalone", "--nproc-per-node", "2", str(script), str(tmp_path / "two"), "4"]
    assert ended(begin(torchrun, command, OMP_NUM_THREADS="1"), 200) == 0
    assert runs.read_checkpoint(tmp_path / "two-mse")["state"]["processes"] == 2
    here("one", 8)
    here("other", 4)
    for loss in ("mse", "rmse"):
        one = losses("one", loss)
        assert losses("two", loss) == pytest.approx(one, rel=1e-5)
        assert losses("other", loss) != pytest.approx(one, rel=1e-5)
