"""The comparison model: voxel by voxel or a whole cell at once, trained in slices, and what its record claims."""

import json
import sys

import numpy as np
import pytest
import torch

import comparison_model
from rlnlib import provenance, training
from rlnlib.book import claims


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return comparison_model.ComparisonModel().eval()


def test_it_has_the_weights_of_the_paper_s_comparison_model(model):
    assert sum(parameter.numel() for parameter in model.parameters()) == 28_099_329


def test_a_patch_is_the_periodic_neighbourhood_of_its_voxel():
    cells = torch.arange(2 * 12**3).view(2, 12, 12, 12)
    (patch,) = comparison_model.patches(cells, torch.tensor([[1, 0, 11, 6]]))
    assert patch.shape == (11, 11, 11)
    assert patch[5, 5, 5] == cells[1, 0, 11, 6]
    assert patch[4, 6, 10] == cells[1, 11, 0, 11]


def test_a_whole_cell_is_predicted_as_voxel_by_voxel_along_its_own_axes(model):
    cell = torch.rand(1, 7, 7, 7) > 0.5
    voxels = torch.tensor([[0, 0, 0, 0], [0, 6, 1, 3], [0, 2, 5, 4]])
    with torch.no_grad():
        field, alone = model.field(cell[0]), model(comparison_model.patches(cell, voxels))
    assert torch.allclose(field[tuple(voxels[:, 1:].T)], alone, atol=1e-5)
    assert field.std() > 1e-3
    assert not torch.allclose(field.permute(2, 1, 0)[tuple(voxels[:, 1:].T)], alone, atol=1e-5)


class Narrow(comparison_model.ComparisonModel):
    """The model with a hundredth of its weights, for what does not depend on their number."""

    def __init__(self):
        super().__init__(channels=(16, 32), dense=(128, 64))


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run the script on few small cells: what it printed."""
    small = "--contrasts 10 --minutes 0.05 --cells 10 --size 11 --batch-size 16 --validation 16 --small 2 --large 2"
    monkeypatch.setattr(comparison_model, "ComparisonModel", Narrow)

    def run(*more):
        words = ["comparison_model.py", *small.split(), "--folder", tmp_path, *more]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        comparison_model.main()
        return capsys.readouterr().out

    return run


def test_it_is_trained_in_slices_and_scored_beside_the_rln(call, tmp_path):
    assert "Run the same command again" in call("--max-minutes", "0.0001")
    assert "Complete." in call("--out", tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    (row,) = record["rows"]
    assert row["learning_curve"][0]["steps"] < row["learning_curve"][-1]["steps"] and row["patches"] % 16 == 0
    assert row["scores"]["31"]["rln"]["cells"] == row["scores"]["11"]["comparison"]["cells"] == 2
    assert row["scores"]["31"]["rln"]["mean"] < row["scores"]["31"]["comparison"]["mean"]
    with pytest.raises(ValueError, match="the learning rate falls already"):
        call("--minutes", "0.1")


def test_its_claims_are_the_table_s_rows_and_the_pair_at_both_contrasts():
    draw = np.random.default_rng(0)
    rows = []
    for contrast in (50.0, 10.0):
        errors = {"comparison": draw.normal(8, 3, 40), "rln": draw.normal(2, 1, 40)}
        of = {name: {"mase": values.tolist()} for name, values in errors.items()}
        rows.append({"contrast": contrast, "patches": 5, "training_cells": 4, "scores": {"21": of, "31": of}})
    found = {item["claim"]: claims.checked(item) for item in comparison_model.claims(rows)}
    assert len(found) == 5 and found["table-1-mean-comparison-50"]["value"] == pytest.approx(8, abs=1.5)
    assert found["rln-below-the-comparison-built-here"]["interval"][1] < 0.67
    listed = {entry.id for entry in claims.load_claims(provenance.ROOT / "book" / "claims.yml")}
    assert set(found) <= listed
    assert len(comparison_model.claims(rows[:1])) == 2, "the pair speaks of both contrasts"


def test_reduced_precision_is_used_only_where_it_is_fast():
    fast = training.fast_precision("cpu") == "bf16-mixed"
    with comparison_model.precision():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if fast else torch.float32)
