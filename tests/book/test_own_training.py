"""A network that chapter 13 has trained, in chapter 14."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

import rlnlib
from rlnlib import rln, runs, training
from stored import NOTEBOOKS, tagged


def cell(chapter: str, tag: str) -> str:
    (path,) = [path for path in NOTEBOOKS if path.stem.partition("_")[2] == chapter]
    return tagged(path, tag)[0].source


def test_chapter_14_loads_the_networks_that_chapter_13_has_trained_in_a_folder(tmp_path):
    small = {"training_size": 12, "n_train": 4, "n_validation": 2, "n_test": 2, "epochs": 1, "batch_size": 2}
    given = {**small, "contrast": 25.0, "seed": 0, "run_folder": str(tmp_path), "device": torch.device("cpu")}
    one_kind = SimpleNamespace(KINDS={"fln": rln.KINDS["fln"]})
    given |= {"rlnlib": rlnlib, "rln": one_kind, "runs": runs, "training": training, "torch": torch}
    given |= {"tempfile": tempfile, "Path": Path}
    trained, loaded = dict(given), dict(given)
    exec(cell("training", "train"), trained)
    made = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    exec(cell("results", "baseline"), loaded)
    exec(cell("results", "live"), loaded)  # refused, were it other data or another recipe
    assert made and all(path.read_bytes() == content for path, content in made.items())
