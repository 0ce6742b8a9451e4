import json
from pathlib import Path

import pytest
import yaml

from rlnlib.book import claims

ROOT = Path(__file__).resolve().parents[2]
LEDGER = ROOT / "book" / "claims.yml"
STORED = sorted((ROOT / "notebooks").glob("*.ipynb"))


def notebook(path, *recorded, tag="here"):
    """An executed notebook whose one cell recorded (claim, value, conditions)."""
    outputs = [
        {"data": {claims.MEDIA_TYPE: dict(zip(("claim", "value", "conditions"), item, strict=True))}}
        for item in recorded
    ]
    cell = {"cell_type": "code", "metadata": {"tags": [tag] if tag else []}, "outputs": outputs}
    path.write_text(json.dumps({"cells": [cell]}))
    return path


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "claims.yml"
    items = [
        {"id": "number", "quote": "q", "section": 1, "published": 10, "tolerance": 1},
        {"id": "statement", "quote": "q", "section": 1, "published": True},
        {"id": "hard", "quote": "q", "section": 1, "published": 3, "tolerance": 1, "needs_paper_conditions": True},
    ]
    path.write_text(yaml.safe_dump(items))
    return path


def test_the_ledger_covers_the_paper():
    entries = claims.load_claims(LEDGER)
    assert len(entries) >= 50
    table = [entry for entry in entries if entry.id.startswith("table-1-")]
    assert len(table) == 16 and all(entry.needs_paper_conditions for entry in table)
    ours = {"value", "ours", "status"}
    assert not [item for item in yaml.safe_load(LEDGER.read_text()) if ours & set(item)], "written by hand"


def test_the_stored_notebooks_measure_listed_claims_only():
    entries = claims.ledger(LEDGER, STORED)
    measured = [entry for entry in entries if entry.value is not None]
    assert len(measured) >= 6
    assert {entry.status for entry in entries} <= set(claims.STATUSES)


@pytest.mark.parametrize(
    ("recorded", "status"),
    [
        (("number", 10.9, "x"), "reproduced"),
        (("number", 11.1, "x"), "differs"),
        (("statement", True, "x"), "reproduced"),
        (("statement", False, "x"), "not reproduced"),
        (("hard", 3.0, "16^3"), "not tried"),
        (("hard", 3.0, "paper"), "reproduced"),
    ],
)
def test_a_status_follows_from_the_measurement(recorded, status, small, tmp_path):
    entries = claims.ledger(small, [notebook(tmp_path / "a.ipynb", recorded)])
    by_id = {entry.id: entry for entry in entries}
    assert by_id[recorded[0]].status == status
    assert {entry.status for name, entry in by_id.items() if name != recorded[0]} == {"not tried"}
    assert by_id[recorded[0]].where == ("a", "here")


def test_measurements_that_do_not_fit_the_ledger_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match="does not list"):
        claims.ledger(small, [notebook(tmp_path / "a.ipynb", ("unknown", 1, "x"))])
    with pytest.raises(ValueError, match="is measured in"):
        claims.ledger(small, [notebook(tmp_path / f"{n}.ipynb", ("number", 1, "x")) for n in "ab"])
    with pytest.raises(ValueError, match="without a tag"):
        claims.ledger(small, [notebook(tmp_path / "a.ipynb", ("number", 1, "x"), tag="")])


def test_ledgers_that_lack_something_are_refused(small):
    items = yaml.safe_load(small.read_text())
    small.write_text(yaml.safe_dump([*items, items[0]]))
    with pytest.raises(ValueError, match="twice"):
        claims.load_claims(small)
    del items[0]["quote"]
    small.write_text(yaml.safe_dump(items))
    with pytest.raises(ValueError, match="lacks quote"):
        claims.load_claims(small)


def test_a_measurement_is_recorded_and_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(claims, "display", lambda data, raw: shown.append(data))
    claims.record("a", 0.5, "paper")
    claims.record("b", False, "one cell")
    assert shown[0][claims.MEDIA_TYPE] == {"claim": "a", "value": 0.5, "conditions": "paper"}
    assert "does not hold (one cell)" in shown[1]["text/markdown"]
    for value, conditions in ((float("nan"), "x"), (1.0, " ")):
        with pytest.raises(ValueError):
            claims.record("a", value, conditions)
