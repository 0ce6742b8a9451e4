"""The script with which a shipped network is trained further."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rlnlib
from rlnlib import dataset, runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, n, seed in (("train", 10, 1), ("other", 10, 2)):
        dataset.make_dataset(folder / f"{name}.h5", n, size=7, grain_size=(1, 3), repeats=1, contrast=10.0, seed=seed)
    return folder


def call(data, run, *more, contrast="10"):
    words = ["--kind", "fln", "--contrast", contrast, "--train", data / "train.h5", "--data", data / "other.h5"]
    command = [sys.executable, ROOT / "experiments" / "train_further.py", *words, "--run", run, *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)


def test_a_shipped_network_is_trained_further_on_another_size_in_slices(data, tmp_path):
    first = call(data, tmp_path / "run", "--minutes", "0.1", "--slice-minutes", "0.01")
    assert first.returncode == 0 and "call again to go on" in first.stdout, first.stderr
    last = call(data, tmp_path / "run", "--minutes", "0.1")
    assert last.returncode == 0 and "minutes" in last.stdout, last.stderr
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


def test_data_of_another_contrast_are_refused(data, tmp_path):
    done = call(data, tmp_path / "run", "--minutes", "0.1", contrast="50")
    assert done.returncode == 2 and "is of contrast 10, not 50" in done.stderr
