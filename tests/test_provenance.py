"""Records: what they say of their making, and that each stands under the name of the script that makes it."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

import rlnlib
from rlnlib import provenance, weight_files

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "experiments").glob("*.py"))


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(cells=3, device="cpu", folder="elsewhere", out=tmp_path / "record.json")


def test_a_record_says_when_where_and_with_what_it_was_made(options):
    provenance.write_record("A question?", options, {"rows": [1, 2]})
    record = json.loads(options.out.read_text(encoding="utf-8"))
    assert record["question"] == "A question?" and record["rows"] == [1, 2]
    assert record["settings"] == {"cells": 3, "device": "cpu"}
    assert record["versions"]["rlnlib"] == rlnlib.__version__
    assert record["machine"]["cores"] >= 1 and record["machine"]["gpu"] is None
    assert len(record["date"]) == 10 and "commit" in record


def test_a_run_for_one_case_replaces_its_part_of_a_record_and_keeps_the_others(options):
    for key, value in (("10", 1), ("50", 2), ("10", 3)):
        provenance.write_record("A question?", options, {"value": value}, key=key)
    record = json.loads(options.out.read_text(encoding="utf-8"))
    assert {key: part["value"] for key, part in record.items()} == {"10": 3, "50": 2}


def test_without_a_path_nothing_is_written(options, capsys):
    options.out = None
    provenance.write_record("A question?", options, {})
    assert json.loads(capsys.readouterr().out)["question"] == "A question?"


def test_weights_are_named_with_their_hash():
    (name, digest), *others = provenance.weights_used("rln", 10.0, 16).items()
    assert name == "rln-10" and not others
    (entry,) = (entry for entry in weight_files.catalogue() if entry["file"] == f"{name}.safetensors")
    assert digest == entry["sha256"]


def test_every_record_is_named_as_the_script_that_makes_it():
    made = {file.stem for file in (ROOT / "data" / "results").iterdir()}
    assert made and made <= {script.stem for script in SCRIPTS}
    for file in (ROOT / "benchmarks" / "results").iterdir():  # some have a size or a number of cores behind it
        assert any(file.stem.startswith(script.stem) for script in (ROOT / "benchmarks").glob("*.py")), file.name


def test_every_script_finds_what_it_imports_when_it_is_started_by_its_path(tmp_path):
    """Not only in pytest, which has the folders on its path. One process for all: torch takes seconds to load."""
    program = """if True:
        import runpy, sys
        from pathlib import Path
        path = sys.path[:]
        for script in map(Path, sys.argv[1:]):
            sys.path[:] = [str(script.parent), *path[1:]]
            sys.modules.pop("common", None)
            runpy.run_path(str(script))
    """
    scripts = [*SCRIPTS, *sorted((ROOT / "benchmarks").glob("*.py"))]
    done = subprocess.run([sys.executable, "-c", program, *scripts], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
