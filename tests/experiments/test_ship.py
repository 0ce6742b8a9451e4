"""The script that turns a training run into shipped weights, and the page that is made from their headers."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pages
import rlnlib
import ship as ship_weights
from rlnlib import dataset, networks, reproduce, runs, training, weight_files
from rlnlib.rln import KINDS, RLN

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "ship.py"
CONFIG = training.TrainingConfig(epochs=2, batch_size=8, augment=True, warm_up=0.1)


@pytest.fixture
def ship(tmp_path, monkeypatch):
    """The script's function, which works in a folder of this test."""
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path / "data" / "pretrained")
    return ship_weights.ship


def run(folder, data, model, config=CONFIG, whole=False):
    sets = (dataset.StrainDataset(data, split) for split in (None if whole else "train", "validation"))
    return runs.train(model, *sets, config, folder, device="cpu")


def new(kind="fln", **options):
    torch.manual_seed(0)
    return RLN(**KINDS[kind], **options)


def test_a_run_is_shipped_with_its_scores_and_its_learning_curve(ship, tmp_path):
    data = dataset.make_dataset(tmp_path / "c5.h5", 20, size=6, grain_size=(1, 3), contrast=5.0)
    model = new()
    curve = run(tmp_path / "run", data, model)
    name, about = ship([tmp_path / "run"], data, "a test")
    assert name == "fln-5-6"
    loaded = rlnlib.load_pretrained("fln", 5, size=6)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    stiff, strain = dataset.StrainDataset(data, "test").tensors()
    error = float(rlnlib.mase(rlnlib.predict_strain(loaded, stiff), strain).mean())
    assert about["metrics"]["mase_mean"] == pytest.approx(error, abs=1e-3) and about["metrics"]["cells"] == len(stiff)
    records = tmp_path / "data" / "pretrained"
    scores = json.loads((records / "fln-5-6.test.json").read_text(encoding="utf-8"))
    assert sum(scores["mase"]) / len(scores["mase"]) == pytest.approx(error, abs=1e-3)
    assert weight_files.pretrained_header("fln", 5, 6)["recipe"] == scores["recipe"] == about["recipe"]
    assert [row["epoch"] for row in runs.read_learning_curve(records, "fln-5-6.learning_curve.csv")] == [1, 2]
    assert about["minutes"] == round(curve[-1]["seconds"] / 60, 1) and len(about["data"]["sha256"]) == 64


def test_a_training_in_stages_says_all_of_them(ship, tmp_path):
    """First on small cells, then on larger ones: what the first file knew comes along, with its own data."""
    small, large = (
        dataset.make_dataset(tmp_path / f"{size}.h5", 20, size=size, grain_size=(1, 3), contrast=5.0) for size in (6, 7)
    )
    model = new(proximal="vnet-periodic")
    run(tmp_path / "first", small, model)
    ship([tmp_path / "first"], small, "a test")
    run(tmp_path / "second", large, model.train(), replace(CONFIG, epochs=3, seed=1))
    before = weight_files.PRETRAINED / "fln-5-6.safetensors"
    name, about = ship([tmp_path / "second"], large, "a test", after=before)
    assert name == "fln-5-7" and weight_files.shipped(6) == weight_files.shipped(7) == [("fln", 5.0)]
    assert [stage["epochs"] for stage in about["recipe"]] == [2, 3] and about["epochs"] == 5
    assert about["recipe"][0]["data"]["size"] == 6 and "data" not in about["recipe"][1]
    curve = runs.read_learning_curve(tmp_path / "data" / "pretrained", "fln-5-7.learning_curve.csv")
    assert [row["epoch"] for row in curve] == [1, 2, 3, 4, 5]
    assert all(later["seconds"] >= row["seconds"] for row, later in itertools.pairwise(curve))
    text = pages.model_cards()
    for expected in (
        '`rlnlib.load_pretrained("fln", 5, size=7)`',
        "recipe, stage 2",
        "a data set of 20 cells of $6^3$",
    ):
        assert expected in text


def test_cells_of_another_data_set_may_be_trained_on_but_no_test_cell(ship, tmp_path):
    data, other = (
        dataset.make_dataset(tmp_path / f"{seed}.h5", 20, size=6, grain_size=(1, 3), contrast=5.0, seed=seed)
        for seed in (0, 1)
    )
    run(tmp_path / "run", other, new(), whole=True)
    about = ship([tmp_path / "run"], data, "a test", train_data=other)[1]
    assert about["training_cells"] == 20 and about["data"]["seed"] == 0 and about["recipe"][0]["data"]["seed"] == 1
    assert "on a data set of 20 cells of $6^3$" in pages.model_cards()
    with pytest.raises(ValueError, match="was trained on other cells"):
        ship([tmp_path / "run"], data, "a test")
    run(tmp_path / "all", data, new(), whole=True)
    with pytest.raises(ValueError, match="8 of the 8 test cells were trained on"):
        ship([tmp_path / "all"], data, "a test", train_data=data)


def test_a_network_that_is_none_of_the_three_is_not_shipped(ship, tmp_path):
    data = dataset.make_dataset(tmp_path / "c5.h5", 20, size=6, grain_size=(1, 3), contrast=5.0)
    torch.manual_seed(0)
    run(tmp_path / "run", data, RLN(passes=2))
    with pytest.raises(ValueError, match="none of fln"):
        ship([tmp_path / "run"], data, "a test")
    with pytest.raises(FileNotFoundError, match="No training run"):
        ship([tmp_path / "absent"], data, "a test")
    assert not weight_files.PRETRAINED.exists()


def own_network(channels):
    return networks.PeriodicConv3d(channels, 1)


def test_an_own_network_is_shipped_and_loaded_by_who_passes_it(ship, tmp_path):
    data = dataset.make_dataset(tmp_path / "c5.h5", 20, size=6, grain_size=(1, 3), contrast=5.0)
    torch.manual_seed(0)
    model = RLN(passes=2, proximal=own_network)
    run(tmp_path / "run", data, model)
    with pytest.raises(ValueError, match="pass the function or class"):
        ship([tmp_path / "run"], data, "a test")
    with pytest.raises(ValueError, match="name its kind"):
        ship([tmp_path / "run"], data, "a test", proximal=own_network)
    name, about = ship([tmp_path / "run"], data, "a test", proximal=own_network, kind="mine")
    assert name == "mine-5-6" and weight_files.shipped(6) == [("mine", 5.0)]
    loaded = rlnlib.load_pretrained("mine", 5, size=6, proximal=own_network)
    stiff, strain = dataset.StrainDataset(data, "test").tensors()
    error = float(rlnlib.mase(rlnlib.predict_strain(loaded, stiff), strain).mean())
    assert about["mase_mean"] == pytest.approx(error, abs=1e-3)


def test_what_reproduce_made_is_shipped_as_it_is(ship, tmp_path):
    stage = reproduce.Stage({"n": 20, "size": 6, "repeats": 5, "grain_size": (1, 3)}, CONFIG)
    results = reproduce.reproduce(reproduce.Profile((stage,), kinds=("fln",)), tmp_path / "out", "cpu")
    name, about = ship_weights.ship_file(tmp_path / "out" / "fln-50.safetensors")
    assert name == "fln-50-6" and about == results["fln-50"]
    assert len(runs.read_learning_curve(weight_files.PRETRAINED, "fln-50-6.learning_curve.csv")) == 2
    assert weight_files.pretrained_header("fln", 50, 6)["metrics"]["standard_error"] > 0


def test_the_model_card_says_what_the_headers_say():
    text = pages.model_cards()
    entries = [entry for entry in weight_files.catalogue() if entry["contrast"] is not None]
    for entry in entries:
        header = weight_files.pretrained_header(entry["kind"], entry["contrast"], entry["size"])
        section = text.split(f"## {entry['kind']}, contrast {entry['contrast']:g}, cells of {entry['size']}³")[1]
        section = section.split("\n## ")[0]
        metrics, last = header["metrics"], header["recipe"][-1]
        for expected in (
            entry["file"],
            entry["sha256"],
            f"{metrics['mase_mean']:.2f} ± {metrics['mase_deviation']:.2f} %",
            f"{header['minutes']:g} minutes",
            header["device"],
            f"learning rate {last['learning_rate']:g} ",
        ):
            assert expected in section
    assert all(f"sha256 | `{entry['sha256']}`" in text for entry in weight_files.catalogue())
    assert text.count("sha256 |") == len(weight_files.catalogue())


def test_a_file_that_differs_from_its_hash_has_no_model_card(ship, tmp_path):
    path = tmp_path / "new.safetensors"
    weight_files.save_weights(path, new(), kind="fln", contrast=5, data={"size": 16})
    weight_files.ship(path)
    file = weight_files.PRETRAINED / "fln-5.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(OSError, match="hash"):
        pages.model_cards()
