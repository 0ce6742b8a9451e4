import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import claims_page
from rlnlib.book import claims

ROOT = Path(__file__).resolve().parents[2]
LEDGER = ROOT / "book" / "claims.yml"
STORED = sorted((ROOT / "notebooks").glob("*.ipynb"))

WORDS = {"quote": "q", "section": 1, "criterion": "c"}
SMALL = [
    {"id": "number", **WORDS, "published": 10, "tolerance": 1, "needs": {"size": 31, "training": ["released"]}},
    {"id": "error", **WORDS, "published": 10, "tolerance": 1, "better": "lower", "needs": {"size": 31}},
    {"id": "statement", **WORDS},
    {"id": "effect", **WORDS, "least": 2, "needs": {"size": 31}},
    {"id": "ratio", **WORDS, "least": 0.9, "most": 1.1},
    {"id": "hours", **WORDS, "published": 8, "tolerance": 2, "hardware": "V100"},
]
FULL = {"size": 31, "training": "released"}
LESS = {"size": 16, "training": "released"}


def notebook(path, *recorded, tag="here"):
    """An executed notebook whose one cell recorded (claim, value, conditions, interval)."""
    names = ("claim", "value", "conditions", "interval")
    outputs = [{"data": {claims.MEDIA_TYPE: dict(zip(names, item, strict=False))}} for item in recorded]
    cell = {"cell_type": "code", "metadata": {"tags": [tag] if tag else []}, "outputs": outputs}
    path.write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
    return path


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return path


def test_the_ledger_covers_the_paper():
    entries = claims.load_claims(LEDGER)
    assert len(entries) >= 100
    table = [entry for entry in entries if entry.id.startswith("table-1-mean-") or "-deviation-" in entry.id]
    assert len(table) == 16 and all(entry.needs["size"] >= 31 for entry in table if "comparison" not in entry.id)
    ours = {"value", "ours", "status", "interval", "conditions"}
    assert not [item for item in yaml.safe_load(LEDGER.read_text(encoding="utf-8")) if ours & set(item)], "by hand"


def test_what_notebooks_and_records_measure_are_listed_claims_and_none_is_left_untried():
    entries = claims.ledger(LEDGER, STORED, claims.record_files())
    assert not [entry.id for entry in entries if entry.status == "not tried"]
    assert sum(bool(entry.where) and not entry.where[1] for entry in entries) >= 82, "records"
    assert sum(bool(entry.where) and bool(entry.where[1]) for entry in entries) >= 14, "notebooks"


def code_of(stem: str) -> str:
    (path,) = (ROOT / "notebooks").glob(f"*_{stem}.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem[:2])
def test_a_chapter_s_measured_claims_stand_together_at_its_end(path):
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    measuring = [cell for cell in cells if "claims.record(" in "".join(cell["source"])]
    assert measuring in ([], cells[-1:])
    assert all(cell["metadata"]["tags"][0] == "claims" for cell in measuring)


@pytest.mark.parametrize(
    "stem", ["moulinec_fixed_point", "better_solvers", "microstructures", "results", "small_then_large"]
)
def test_chapters_read_table_1_from_the_ledger(stem):
    code = code_of(stem)
    assert "claims.table_1()" in code
    typed = [f"{mean:.2f}" for mean, _ in claims.table_1().values() if re.search(rf"\b{mean:.2f}\b", code)]
    assert not typed


@pytest.mark.parametrize("stem", ["results", "how_a_solution_evolves"])
def test_networks_are_scored_with_weights_for_the_size_of_the_cells(stem):
    """Without a size the weights for 16^3 would be used on the 31^3 cells of the paper's profile."""
    calls = re.findall(r"load_pretrained\(([^)]*)\)", code_of(stem))
    assert len(calls) >= 2
    assert all(call.startswith("*") or call.count(",") == 2 for call in calls), calls


@pytest.mark.parametrize(
    ("recorded", "status"),
    [
        (("number", 10.9, FULL), "reproduced"),
        (("number", 11.1, FULL), "differs"),
        (("number", 8.9, FULL), "differs"),
        (("number", 8.9, FULL, [8.8, 8.95]), "differs"),
        (("number", 10.9, FULL, [10.7, 11.1]), "undecided"),
        (("number", 10.0, FULL, [8, 12]), "undecided"),
        (("number", 10.9, LESS), "reproduced at a smaller scale"),
        (("number", 10.9, {**FULL, "training": "shipped"}), "reproduced at a smaller scale"),
        (("number", 10.9, "words alone"), "reproduced at a smaller scale"),
        (("number", 11.1, LESS), "undecided"),
        (("error", 8.9, FULL), "better than published"),
        (("error", 8.9, FULL, [8.8, 9.1]), "reproduced"),
        (("error", 8.9, FULL, [8.8, 11.1]), "undecided"),
        (("error", 11.1, FULL), "differs"),
        (("error", 8.9, LESS), "undecided"),
        (("statement", True, "x"), "reproduced"),
        (("statement", False, "x"), "not reproduced"),
        (("effect", 2.5, FULL), "reproduced"),
        (("effect", 2.5, FULL, [2.1, 3]), "reproduced"),
        (("effect", 2.5, FULL, [1.9, 3]), "undecided"),
        (("effect", 1.5, FULL, [1.2, 1.9]), "not reproduced"),
        (("effect", 2.5, LESS), "reproduced at a smaller scale"),
        (("effect", 1.5, LESS), "not reproduced"),
        (("ratio", 1.0, "x", [0.95, 1.05]), "reproduced"),
        (("ratio", 1.0, "x", [0.8, 1.2]), "undecided"),
        (("ratio", 1.2, "x", [1.15, 1.3]), "not reproduced"),
        (("hours", 45.0, {"machine": "CPU"}), "needs other hardware"),
        (("hours", 8.5, {"machine": "V100"}), "reproduced"),
    ],
)
def test_a_status_follows_from_value_interval_and_conditions(recorded, status, small, tmp_path):
    entries = claims.ledger(small, [notebook(tmp_path / "a.ipynb", recorded)])
    by_id = {entry.id: entry for entry in entries}
    assert by_id[recorded[0]].status == status
    others = {entry.status for name, entry in by_id.items() if name != recorded[0]}
    assert others <= {"not tried", "needs other hardware"}
    assert by_id[recorded[0]].where == ("a", "here")


def test_each_status_occurs_in_the_test_before():
    test = test_a_status_follows_from_value_interval_and_conditions
    occurring = {status for _, status in test.pytestmark[0].args[1]}
    assert occurring | {"not tried"} == set(claims.STATUSES)


def test_a_record_measures_as_a_notebook_does(small, tmp_path):
    record = tmp_path / "record.json"
    measured = {"claim": "effect", "value": 3, "interval": [2.5, 4], "conditions": FULL}
    record.write_text(json.dumps({"question": "?", "claims": [measured]}), encoding="utf-8")
    entries = {entry.id: entry for entry in claims.ledger(small, [], [record])}
    assert entries["effect"].status == "reproduced" and entries["effect"].where == ("record.json", "")
    with pytest.raises(ValueError, match="is measured in"):
        claims.ledger(small, [notebook(tmp_path / "a.ipynb", ("effect", 3, "x"))], [record])


def test_a_measurement_decides_a_claim_of_the_same_effect_by_a_bound_of_its_own(small, tmp_path):
    other = {"id": "wider", **WORDS, "least": 1, "same_as": "effect"}
    small.write_text(yaml.safe_dump([other, *SMALL]), encoding="utf-8")
    measured = ("effect", 1.5, FULL, [1.2, 1.9])
    entries = {entry.id: entry for entry in claims.ledger(small, [notebook(tmp_path / "a.ipynb", measured)])}
    assert entries["wider"].status == "reproduced" and entries["effect"].status == "not reproduced"
    assert entries["wider"].where == entries["effect"].where == ("a", "here")
    with pytest.raises(ValueError, match="is measured in"):
        claims.ledger(small, [notebook(tmp_path / "a.ipynb", measured, ("wider", 1.5, FULL))])


def test_what_failed_under_less_than_the_paper_s_conditions_says_so():
    effect = claims.Entry("e", "t", True, "1", "c", least=2, needs={"size": 31, "cells": 8192})
    failed = replace(effect, value=1.0, where=("a", "b"), conditions={"size": 31, "cells": 544})
    assert claims_page.failed_under_less(failed) == "544 cells in place of 8,192 cells"
    assert "failed under less: 544 cells" in claims_page.item(failed)
    assert claims_page.part_of([failed]) == "; 1 of them under less than the claim needs"
    for other in (effect, replace(failed, value=3.0), replace(failed, conditions=dict(effect.needs))):
        assert claims_page.failed_under_less(other) == "" and claims_page.part_of([other]) == ""


#: Verdicts that changed after a first one was known, by what changed them and which way.
CHANGED = {
    "Where the question was changed, five went away from the paper": "fourier-layers-help gradual-weights-end-better "
    "pass-weights-regularize passes-cost-the-same rln-below-the-comparison-built-here",
    "and five towards it": "advantage-over-finite-elements fft-costs-s-log-s fixed-point-needs-green "
    "linear-solvers-dearer other-contrast-needs-training",
    "Where other networks, unit cells, trainings or times were measured, five went away": "high-strains-first "
    "large-volumes released-means-50 table-1-deviation-rln-10 table-1-deviation-rln-50",
    "six towards it, and": "released-means-10 rln-better-than-rln-t-better-than-fln rln-half-the-error-of-comparison "
    "spread-falls-the-same-way table-1-mean-rln-10 table-1-mean-rln-50",
    "and three back and forth": "cosine-decay-matters fln-misses-peaks prelu-steadier",
}


def test_the_page_counts_the_verdicts_that_changed_and_their_notes_give_the_earlier_ones():
    notes = {entry.id: entry.note for entry in claims.load_claims(LEDGER)}
    earlier = {name: re.findall(r'was "([^"]+)"', note) for name, note in notes.items()}
    assert {word for words in earlier.values() for word in words} <= set(claims.STATUSES)
    listed = [name for names in CHANGED.values() for name in names.split()]
    assert len(listed) == 24 and "the answer changed twice" in notes["fln-misses-peaks"]
    assert sorted(listed) == sorted([name for name, words in earlier.items() if words] + ["fln-misses-peaks"])
    prose = " ".join((ROOT / "book" / "claims.md").read_text(encoding="utf-8").split())
    assert "Twenty-four verdicts changed" in prose
    for words, names in CHANGED.items():
        assert words in prose and {3: "three", 4: "four", 5: "five", 6: "six"}[len(names.split())] in words.split()


def test_table_1_is_the_paper_s():
    table = claims.table_1()
    assert len(table) == 8 and list(table)[:2] == [("comparison", 10), ("fln", 10)]
    assert table["rln", 50] == (2.92, 1.17)


def test_the_shipped_networks_give_all_rows_of_table_1_at_its_size():
    """Chapter 14 and the front page say that all six means are lower than the paper's."""
    entries = {entry.id: entry for entry in claims.ledger(LEDGER, [], claims.record_files())}
    for kind, contrast in claims.table_1():
        if kind != "comparison":
            mean, deviation = (entries[f"table-1-{which}-{kind}-{contrast}"] for which in ("mean", "deviation"))
            assert mean.status == "better than published" and mean.where[0] == f"{kind}-{contrast}-31.test.json"
            assert mean.meets_needs and deviation.meets_needs and deviation.status != "not tried"


def test_the_test_errors_of_a_network_are_a_row_of_table_1(tmp_path):
    errors = np.random.default_rng(0).normal(1.0, 0.37, 8192).tolist()
    content = {"kind": "rln", "contrast": 10.0, "data": {"size": 31}, "mase": errors}
    path = tmp_path / "rln-10-31.test.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    entries = {entry.id: entry for entry in claims.ledger(LEDGER, [], [path])}
    at = list(entries).index("table-1-mean-rln-10")
    mean, deviation = (entries[f"table-1-{which}-rln-10"] for which in ("mean", "deviation"))
    assert (mean.status, deviation.status) == ("better than published", "reproduced")
    assert mean.interval[1] - mean.interval[0] == pytest.approx(2 * 1.96 * 0.37 / 8192**0.5, rel=0.05)
    assert deviation.interval[1] - deviation.interval[0] == pytest.approx(2 * 1.96 * 0.37 / (2 * 8192) ** 0.5, rel=0.05)
    path.write_text(json.dumps({**content, "mase": errors[:500]}), encoding="utf-8")  # fewer cells than the paper's
    assert claims.ledger(LEDGER, [], [path])[at].status == "undecided"
    path.write_text(json.dumps({**content, "data": {"size": 16}}), encoding="utf-8")  # no number of the paper's
    assert claims.ledger(LEDGER, [], [path])[at].status == "not tried"


def test_measurements_that_do_not_fit_the_ledger_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match="does not list"):
        claims.ledger(small, [notebook(tmp_path / "a.ipynb", ("unknown", 1, "x"))])
    with pytest.raises(ValueError, match="is measured in"):
        claims.ledger(small, [notebook(tmp_path / f"{n}.ipynb", ("number", 1, "x")) for n in "ab"])
    with pytest.raises(ValueError, match="without a tag"):
        claims.ledger(small, [notebook(tmp_path / "a.ipynb", ("number", 1, "x"), tag="")])
    with pytest.raises(ValueError, match="asks for a number"):
        claims.ledger(small, [notebook(tmp_path / "a.ipynb", ("effect", True, "x"))])
    with pytest.raises(ValueError, match="asks for whether it holds"):
        claims.ledger(small, [notebook(tmp_path / "a.ipynb", ("statement", 0.5, "x"))])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"quote": None}, "a quote or a paraphrase"),
        ({"paraphrase": "p"}, "a quote or a paraphrase"),
        ({"criterion": None}, "lacks criterion"),
        ({"published": 3.0}, "needs a tolerance"),
        ({"tolerance": 3.0}, "a statement none"),
        ({"unknown": 1}, "unknown"),
        ({"same_as": "nowhere"}, "decided by one that is not listed"),
        ({"same_as": "new"}, "decided by one that is not listed"),
    ],
)
def test_ledgers_that_lack_something_are_refused(change, complaint, small):
    item = {key: value for key, value in {"id": "new", **WORDS, **change}.items() if value is not None}
    small.write_text(yaml.safe_dump([*SMALL, item]), encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        claims.load_claims(small)


def test_a_claim_listed_twice_is_refused(small):
    small.write_text(yaml.safe_dump([*SMALL, SMALL[0]]), encoding="utf-8")
    with pytest.raises(ValueError, match="twice"):
        claims.load_claims(small)


def test_a_measurement_is_recorded_and_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(claims, "display", lambda data, raw: shown.append(data))
    claims.record("a", 0.5, {"size": 31, "cells": 64, "contrasts": [10.0, 50.0], "training": "shipped"}, [0.4, 0.6])
    claims.record("b", False, "one cell")
    assert shown[0][claims.MEDIA_TYPE]["interval"] == [0.4, 0.6]
    assert "0.5 (0.4 to 0.6) (31³ voxels, 64 cells, contrast 10 and 50, shipped weights)" in shown[0]["text/plain"]
    assert shown[1][claims.MEDIA_TYPE]["conditions"] == {"note": "one cell"}
    assert "does not hold (one cell)" in shown[1]["text/markdown"]


@pytest.mark.parametrize(
    ("value", "conditions", "interval"),
    [
        (float("nan"), "x", None),
        (1.0, " ", None),
        (1.0, {}, None),
        (1.0, {"colour": "red"}, None),
        (1.0, {"size": 31.5}, None),
        (1.0, {"training": "long"}, None),
        (1.0, "x", [1.1, 1.2]),
        (True, "x", [0, 1]),
    ],
)
def test_measurements_that_say_too_little_or_too_much_are_refused(value, conditions, interval):
    with pytest.raises(ValueError):
        claims.record("a", value, conditions, interval)
