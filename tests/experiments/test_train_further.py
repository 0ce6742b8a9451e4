"""The script with which a shipped network is trained further."""

import sys

import pytest
import torch

import rlnlib
import train_further
from rlnlib import dataset, runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, n, seed in (("train", 10, 1), ("other", 10, 2)):
        dataset.make_dataset(folder / f"{name}.h5", n, size=7, grain_size=(1, 3), repeats=1, contrast=10.0, seed=seed)
    return folder


@pytest.fixture
def call(data, tmp_path, monkeypatch, capsys):
    """Run the script: what it printed."""

    def run(*more, contrast="10"):
        words = ["--kind", "fln", "--contrast", contrast, "--train", data / "train.h5", "--data", data / "other.h5"]
        words = ["train_further.py", *words, "--run", tmp_path / "run", *more]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        train_further.main()
        return capsys.readouterr().out

    return run


def test_a_shipped_network_is_trained_further_on_another_size_in_slices(call, data, tmp_path):
    assert "call again to go on" in call("--minutes", "0.05", "--slice-minutes", "0.01")
    assert "minutes" in call("--minutes", "0.05")
    model, config, curve = runs.read_run(tmp_path / "run")
    assert model.config["proximal"] == "vnet-periodic" and config.loss == "mae" and len(curve) >= 1
    before = rlnlib.load_pretrained("fln", 10)
    changes = [
        float((a - b).detach().abs().max()) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    ]
    assert 0 < max(changes) < 0.2  # it began from them
    stiff, strain = dataset.StrainDataset(data / "other.h5", "validation").tensors()
    error = float(rlnlib.mase(rlnlib.predict_strain(model, stiff, dtype=torch.float32), strain).mean())
    assert error < 0.5 * float(rlnlib.mase(torch.ones_like(strain), strain).mean())


def test_data_of_another_contrast_are_refused(call, capsys):
    with pytest.raises(SystemExit, match="2"):
        call("--minutes", "0.1", contrast="50")
    assert "is of contrast 10, not 50" in capsys.readouterr().err
