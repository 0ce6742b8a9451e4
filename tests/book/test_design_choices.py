"""The chapter on design choices says what its record says, however much of it has been run."""

import json

import matplotlib.pyplot as plt
import pytest

import ablation
from rlnlib import weight_files
from rlnlib.book import figures
from stored import NOTEBOOKS, cells_of

(CHAPTER,) = [path for path in NOTEBOOKS if path.stem.endswith("design_choices")]
#: The notebook cells that read the record, by their first tags.
READING = "record comparisons record-table record-drawn passes by-passes history weights layers prelu rates loss copies"


def run(variant, seed, error, **others):
    made = {"test_mase": error, "training_mase": 0.9 * error, "unsteadiness": error, "test_peaks": 3 * error}
    made |= {"precision": "32-true", "validation_mase": [4 * error, 2 * error, error]}
    return {"variant": variant, "seed": seed, **made} | others


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Make a record of these runs; returns a function that reads it as the chapter does: outcome by statement.

    Its attribute ``tables`` has the rows of the tables that were shown.
    """
    tables = []
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.setattr(figures, "table", lambda header, rows, caption: tables.append(rows))
    monkeypatch.setattr(figures, "show", lambda figure, caption, alt: plt.close(figure))
    (tmp_path / "results").mkdir()

    def read(runs, left=()):
        settings = {"train": 1024, "test": 512, "size": 16, "contrast": 50.0, "epochs": 12}
        record = {"settings": settings, "runs": runs, "claims": ablation.claims(runs, settings), "left": list(left)}
        (tmp_path / "results" / "ablation.json").write_text(json.dumps(record))
        cells = {next(iter(cell.metadata.get("tags", [""])), ""): cell.source for cell in cells_of(CHAPTER)}
        space: dict = {}
        exec(cells["provenance"].partition("device = ")[0], space)
        for tag in [*READING.split(), "summary"]:
            exec(cells[tag], space)
        assert sum(row[1] for row in tables[-1]) == len(space["found"]) == len(space["COMPARISONS"]) + 2
        return space["found"]

    read.tables = tables
    return read


def test_without_runs_nothing_is_said(read):
    assert set(read([]).values()) == {"not run yet"}


def test_each_outcome_follows_from_the_seeds(read):
    runs = [run("baseline", seed, 2.0) for seed in range(3)] + [run("RLN-t", seed, 1.0) for seed in range(3)]
    runs += [run("ReLU", seed, 2.1) for seed in range(3)]  # above the baseline in every seed
    runs += [run("Fourier layer", seed, 2.1) for seed in range(3)]  # it was to be below
    runs += [run("constant rate", seed, error) for seed, error in enumerate((1.9, 2.1, 2.2))]
    runs += [run("RLN-t of 8 passes", 0, 1.0)]
    runs += [{"variant": "step of Moulinec", "seed": seed, "left_percent": 4.0} for seed in range(2)]
    found = read(runs)
    assert found["prelu-helps"] == found["network-emulates-a-step"] == "as the paper says"
    assert found["fourier-layers-help"] == "not as the paper says"
    assert found["cosine-decay-matters"] == "undecided"
    assert found["five-passes-suffice"] == "one seed, no verdict"
    assert found["history-helps"] == found["mse-magnifies-peaks"] == "not run yet"


def test_the_tables_say_how_many_seeds_there_are_and_what_was_not_run(read):
    runs = [run("baseline", seed, 2.0) for seed in range(3)] + [run("RLN-t", seed, 1.0) for seed in range(2)]
    read(runs, left=["RLN-t, seed 2", *(f"RLN-t of 8 passes, seed {seed}" for seed in range(3))])
    said = {row[0]: row[1] for row in read.tables[0]}
    assert said == {"FLN": "three seeds", "RLN-t": "two seeds", "RLN-t of 8 passes": "not run yet"}
    faster, suffice = read.tables[1]
    assert faster[-1] == "as the paper says (two seeds)" and suffice[-1] == "not run yet"


def test_no_difference_in_any_seed_decides_nothing(read):
    runs = [run(name, seed, 2.0, unsteadiness=0.0) for name in ("baseline", "ReLU") for seed in range(3)]
    found = read(runs)
    assert found["prelu-steadier"] == found["prelu-helps"] == "undecided"


def test_what_differs_by_less_than_a_fiftieth_decides_nothing(read):
    runs = [run("baseline", seed, 2.0) for seed in range(3)]
    runs += [run("ReLU", seed, 2.03) for seed in range(3)]  # above the baseline in every seed, by 1.5 %
    runs += [run("one block more", seed, 1.9, test_peaks=6.03) for seed in range(3)]
    found = read(runs)
    assert found["prelu-helps"] == found["deeper-captures-peaks"] == "undecided"
    assert [row[0] for row in read.tables[-2]] == ["one block more for FLN", "ReLU"], "ranked, and the rest"


def test_a_record_without_peaks_is_read(read):
    runs = [run(name, seed, 2.0) for name in ("baseline", "two filter sizes") for seed in range(3)]
    for made in runs:
        del made["test_peaks"]
    assert read(runs)["filter-sizes-capture-peaks"] == "not run yet"
