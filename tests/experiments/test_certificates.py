"""The experiment on the certificate: what it counts, and that it goes on where it was cut off."""

import dataclasses
import json

import pytest

import certificates as experiment
import rlnlib


@pytest.mark.parametrize("name", experiment.NETWORKS)
def test_bounds_hold_for_good_and_for_bad_networks(name):
    found = [experiment.checked(name, number, 4) for number in (0, 1)]
    assert [row["violations"] for row in found] == [0, 0] and [row["unsolved"] for row in found] == [0, 0]


@pytest.mark.parametrize("moved", [0.5, 2.0])
def test_bounds_on_the_wrong_side_are_counted(moved, monkeypatch):
    predict = rlnlib.predict

    def wrong(*args, **options):
        answer = predict(*args, **options)
        return dataclasses.replace(
            answer, energy_bounds=moved * answer.energy_bounds.mean(1, keepdim=True).expand(-1, 2)
        )

    monkeypatch.setattr(rlnlib, "predict", wrong)
    found = experiment.checked("shipped", 1, 4)
    assert found["violations"] == 4


def test_a_run_that_was_cut_off_goes_on(tmp_path, monkeypatch, capsys):
    command = ["certificates.py", "--group", "2", "--folder", str(tmp_path), "--out", str(tmp_path / "record.json")]
    numbers = []
    checked = experiment.checked
    monkeypatch.setattr(experiment, "checked", lambda *args: numbers.append(args[1]) or checked(*args))
    for predictions in ("4", "8"):
        monkeypatch.setattr("sys.argv", [*command, "--predictions", predictions])
        experiment.main()
    assert numbers == [0, 1, 2, 3]
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["predictions"] == 8 and record["violations"] == 0 and len(record["groups"]) == 4
