"""The scoring of the released networks: in pieces, on one random part of the cells, and what reduced precision does."""

import argparse
import json
import sys

import numpy as np
import pytest

import published
from rlnlib.rln import KINDS


def blocks():
    """Two blocks of four cells: the first for ten passes and in both precisions, the second for five passes."""
    draw, made = np.random.default_rng(0), []
    for number, passes in enumerate((10, 5)):
        block = {"fln cell": draw.normal(5, 1, (4, 1)).tolist()}
        block["rln-t cell"] = draw.normal(2, 1, (4, passes)).tolist()
        if number == 0:
            block |= {"fln batch": block["fln cell"], "rln-t batch": block["rln-t cell"]}
            block["rln-t exact"] = (np.array(block["rln-t cell"])[:, :5] - 0.25).tolist()
        made.append(block)
    return made


def test_the_error_is_that_of_the_last_trained_pass_whatever_more_was_run():
    made = blocks()
    found = published.summarized(made, "rln-t", KINDS["rln-t"]["passes"])
    last = [row[4] for block in made for row in block["rln-t cell"]]
    assert found["cell_mean"]["mase"] == last and found["cell_mean"]["cells"] == 8
    assert found["cell_mean"]["mean"] == pytest.approx(np.mean(last), abs=1e-4)
    assert len(found["cell_mean"]["by_pass"]) == 5
    more = found["cell_mean"]["more_passes"]
    assert more["cells"] == 4 and len(more["by_pass"]) == 10
    assert found["batch_mean"]["cells"] == 4


def test_the_record_says_what_reduced_precision_changes():
    found = published.summarized(blocks(), "rln-t", 5)
    assert found["drift"] == {"cells": 4, "mean": 0.25, "largest": 0.25}
    assert "more_passes" not in published.summarized(blocks(), "fln", 1)["cell_mean"]


@pytest.mark.reference
def test_the_networks_are_scored_on_the_same_cells_in_slices(tmp_path, reference_data, monkeypatch):
    words = ["published.py", "--cells", "2", "--few", "2", "--passes", "6"]
    words += ["--contrasts", "10", "50", "--folder", tmp_path / "run", "--out", tmp_path / "record.json"]

    def call(*more):
        monkeypatch.setattr(sys, "argv", [str(word) for word in [*words, *more]])
        published.main()
        return json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))

    assert not call("--max-minutes", "0")["10"]["networks"]
    record = call()
    assert "blocks" not in record["10"]  # all cells are scored
    for contrast in ("10", "50"):
        assert record[contrast]["data"]["cells"] == 2 and record[contrast]["data"]["of"] == 8192
        fln, tied = (record[contrast]["networks"][kind]["cell_mean"]["mean"] for kind in ("fln", "rln-t"))
        assert 0 < tied < fln
    assert record["10"]["networks"]["fln"]["cell_mean"]["mean"] < record["50"]["networks"]["fln"]["cell_mean"]["mean"]


def test_the_scoring_goes_on_from_the_record_alone(tmp_path):
    path, settings = tmp_path / "record.json", {"cells": 64, "passes": 10, "few": 4, "seed": 0}
    record = {"10": {"settings": settings, "precision": "32-true", "blocks": blocks()}}
    path.write_text(json.dumps(record), encoding="utf-8")
    options = argparse.Namespace(**settings)
    assert published.blocks_of(path, 10.0, "32-true", options) == blocks()
    assert published.blocks_of(path, 50.0, "32-true", options) == []
    assert published.blocks_of(path, 10.0, "bf16-mixed", options) == []
    options.seed = 1
    assert published.blocks_of(path, 10.0, "32-true", options) == []
    assert published.blocks_of(None, 10.0, "32-true", options) == []
