"""The chapter on the informed network says of its parts what the record says, however much of it has been run."""

import json

import pytest

import rlnlib
from rlnlib.book import figures, notebook
from stored import NOTEBOOKS, cells_of

(CHAPTER,) = [path for path in NOTEBOOKS if path.stem.endswith("one_network_for_all")]


def run(case, seed, error):
    scores = {name: {"mase": [2 * error, error], "stiffness_error": error / 10}
              for name in ("10, contrast 50", "10, contrast 10", "20, contrast 50")}  # fmt: skip
    return {"case": case, "seed": seed, "parameters": 1000, "processor_seconds": 80, "scores": scores}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Make a record of these runs, or none; returns a function that reads it as the chapter does: its two tables."""
    tables = []
    monkeypatch.setattr(figures, "table", lambda header, rows, caption: tables.append((rows, caption)))
    code = {next(iter(cell.metadata.get("tags", [""])), ""): cell.source for cell in cells_of(CHAPTER)}

    def read(runs=None, verdicts=None):
        if runs is not None:
            record = {"settings": {"steps": 300}, "left": [], "verdicts": verdicts or {}, "runs": runs}
            (tmp_path / "informed_parts.json").write_text(json.dumps(record))
        space = {"json": json, "np": __import__("numpy"), "torch": __import__("torch"), "results": tmp_path}
        space |= {"rlnlib": rlnlib, "figures": figures, "notebook": notebook}
        for tag in ("parts", "parts-beside"):
            exec(code[tag], space)
        rows = {row[0]: row[1:] for row in tables[-2][0]}
        assert len(rows) == len(tables[-1][0]) == len(space["PARTS"])
        return rows, tables[-2][1]

    return read


def test_without_a_record_every_row_says_that_it_was_not_run(read):
    rows, caption = read()
    assert all(row[0] == "not run yet" and row[-1] == "not run yet" for name, row in rows.items() if name != "nothing")
    assert caption.endswith("Not run yet.")


def test_a_verdict_stands_beside_what_was_expected_and_a_case_that_is_missing_says_so(read):
    errors = {"baseline": (7.0, 8.0), "without the residual": (10.5, 12.0), "labels": (6.3, 7.2)}
    errors["three passes"] = (7.7,)
    runs = [run(case, seed, error) for case, of_seed in errors.items() for seed, error in enumerate(of_seed)]
    verdicts = {
        "without the residual": {"over the baseline": [1.5, 1.5], "than the baseline": "worse"},
        "labels": {"over the baseline": [0.9, 0.9], "than the baseline": "better"},
    }
    rows, caption = read(runs, verdicts)
    assert rows["told: no residual"] == ["11.25 ± 0.75", "1.50 ± 0.00", "1.50, 1.50", "worse", "worse, as expected"]
    assert rows["loss: with labels"][3:] == ["not better", "better, not as expected"]
    assert rows["passes: three"] == ["7.70", "1.10", "1.10", "worse", "one seed, no verdict"]
    assert rows["step: three layers"][0] == rows["step: three layers"][-1] == "not run yet"
    assert "300 steps" in caption


def test_a_verdict_that_does_not_belong_to_its_runs_is_refused(read):
    runs = [run(case, seed, error) for case, error in (("baseline", 7.0), ("labels", 6.3)) for seed in (0, 1)]
    with pytest.raises(AssertionError, match="own ratios"):
        read(runs, {"labels": {"over the baseline": [1.5, 1.5], "than the baseline": "worse"}})


def test_the_cases_of_the_chapter_are_those_of_the_experiment():
    import informed_parts

    (cell,) = [cell for cell in cells_of(CHAPTER) if "parts" in cell.metadata.get("tags", [])]
    space: dict = {}
    exec(cell.source.partition("path = ")[0], space)
    assert set(space["PARTS"]) == set(informed_parts.CASES)
