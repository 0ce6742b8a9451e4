"""The parameters of the notebooks: each is checked, acts, and stands in the one table with its limits."""

import ast
import functools
import json
import re
import subprocess
import sys

import nbformat
import pytest
import torch
import yaml

import pages
import parameters_act as act
import project
import run as runner
from rlnlib import dataset, reproduce
from rlnlib.book import notebook
from rlnlib.book.parameters import PARAMETERS
from stored import NOTEBOOKS, cells_of, each, tagged


@pytest.fixture(scope="module", autouse=True)
def every_notebook_is_read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "parameters_of", functools.cache(runner.parameters_of))
        yield


def test_the_ci_profile_is_the_default_and_every_profile_sets_known_names():
    names = {name for path in NOTEBOOKS for name in runner.parameters_of(path)}
    profiles = {file.stem: yaml.safe_load(file.read_text()) for file in runner.PROFILES.glob("*.yml")}
    assert set(profiles) == {"ci", "laptop", "paper"}
    for values in profiles.values():
        assert set(values) == set(profiles["ci"]) <= names
    for path in NOTEBOOKS:
        for name, entry in runner.parameters_of(path).items():
            if name in profiles["ci"]:
                assert str(profiles["ci"][name]) == entry["default"], (path.name, name)


def test_a_name_means_the_same_in_every_notebook():
    seen = {}
    for path in NOTEBOOKS:
        for name, entry in runner.parameters_of(path).items():
            assert seen.setdefault(name, entry["inferred_type_name"]) == entry["inferred_type_name"], name


@each
def test_each_parameter_is_used_after_the_parameters_cell(path):
    """A name that no later cell reads cannot act."""
    seen_tag, read = False, set()
    for cell in cells_of(path):
        if seen_tag:
            read |= {n.id for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Name)}
        seen_tag = seen_tag or "parameters" in cell.metadata.get("tags", [])
    assert not set(runner.parameters_of(path)) - read


@each
def test_each_parameter_is_recorded_to_act(path):
    """On the notebook's present code: else run ``python tools/parameters_act.py``."""
    recorded = json.loads(act.RECORD.read_text())[path.stem]
    assert recorded["source"] == act.source_hash(path)
    assert set(recorded["changed by"]) == set(act.names_of(path))
    assert not [name for name, cells in recorded["changed by"].items() if not cells]


def test_what_acts_is_told_from_what_differs_by_itself(tmp_path):
    """A caption that repeats a parameter, and a timing, do not count; a printed number and a picture do."""

    def seen(text, picture, caption, timing):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(id=name) for name in ("p", "f", "t")])
        page = f'<img alt="{caption}" src="data:image/png;base64,{picture}"><figcaption>{caption}</figcaption>'
        notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text=text)]
        notebook.cells[1].outputs = [nbformat.v4.new_output("display_data", data={"text/html": page})]
        notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text=timing)]
        nbformat.write(notebook, tmp_path / "copy.ipynb")
        return act.shown(tmp_path / "copy.ipynb")

    before, again = seen("1", "AA", "12 cells", "3 s"), seen("1", "AA", "12 cells", "4 s")
    assert act.changed(before, again, seen("1", "AA", "13 cells", "5 s")) == []
    assert act.changed(before, again, seen("2", "AA", "12 cells", "5 s")) == ["p"]
    assert act.changed(before, again, seen("1", "AB", "12 cells", "5 s")) == ["f"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"cell_size": -3}, "cell_size must be a whole number from 10 to 512, not -3"),
        ({"cell_size": 12, "grain_size": 13}, "grain_size must not exceed cell_size, which is 12; it is 13"),
        ({"n_cells": 12, "repeats": 5}, "n_cells must be a multiple of repeats, which is 5; it is 12"),
        ({"cell_file": "none.tif"}, "cell_file must be empty or name what is there, not 'none.tif'"),
        ({"contrast": 20.0, "shipped": True}, "contrast must be 10 or 50, for which networks are shipped, not 20.0"),
        ({"cell_size": 8.5}, "whole number"),
        ({"contrast": 0.0}, "contrast must be a number from"),
        ({"contrast": float("nan")}, "contrast must be a number from"),
        ({"contrast": True}, "contrast must be a number from"),
        ({"stiff_fraction": 1.2}, "stiff_fraction must be a number from 0 to 1, not 1.2"),
        ({"discretization": "hex9"}, "'rotated', 'hex8', 'bbar'; it is 'hex9'"),
        ({"network": "rnl"}, "one of 'fln', 'rln-t', 'rln'"),
        ({"cell_sise": 3}, "no rule for 'cell_sise'"),
    ],
)
def test_bad_values_of_parameters_stop_with_one_sentence(values, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as raised:
        notebook.check(**values)
    assert "\n" not in str(raised.value)


def test_the_values_of_every_profile_pass_the_check():
    for path in NOTEBOOKS:
        for profile in ("ci", "laptop", "paper"):
            defaults = {name: ast.literal_eval(entry["default"]) for name, entry in runner.parameters_of(path).items()}
            values = {**defaults, **runner.profile_values(path, profile)}
            notebook.check(**values)


UNRULED = ("seed", "device", "run_folder")  # start() checks the first two; any name will do for the third


def first_cells(path):
    """Sources of the cells of parameters and of provenance."""
    return [tagged(path, tag)[0].source for tag in ("parameters", "provenance")]


def checked(source):
    """The parameters that a cell hands to ``notebook.check`` under their own names."""
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    calls = [call for call in calls if ast.unparse(call.func) == "notebook.check"]
    words = [word for call in calls for word in call.keywords]
    return {w.arg for w in words if isinstance(w.value, ast.Name) and w.value.id == w.arg}


@each
def test_the_first_cells_check_every_parameter(path):
    assert checked(first_cells(path)[1]) == set(runner.parameters_of(path)) - set(UNRULED)


def test_a_parameter_that_is_not_checked_is_found_out():
    assert checked("notebook.check(cell_size=cell_size, contrast=3)\ncheck(n_test=n_test)") == {"cell_size"}


def bad_values(name):
    """Values that no notebook can use, by the rule of the name."""
    if name == "cell_file":
        return ["no_such_file.tif"]
    allowed = PARAMETERS[name].allowed
    if isinstance(allowed[0], str):
        return ["nothing", 3]
    least, greatest = allowed
    return [least - 1, -3, greatest + 1, True, "many", float("nan"), *([least + 0.5] * isinstance(least, int))]


@each
def test_bad_values_stop_a_notebook_in_its_first_cell(path):
    """Parameters as papermill sets them, one after another bad; with its own values and a profile's the cell passes."""
    parameters, provenance = first_cells(path)

    def run(**changed):
        names = {}
        exec(parameters, names)
        names.update(changed)
        exec(provenance, names)

    run()
    for profile in ("laptop", "paper"):
        run(**runner.profile_values(path, profile))
    for name in set(runner.parameters_of(path)) - set(UNRULED):
        for value in bad_values(name):
            with pytest.raises(ValueError, match=name) as raised:
                run(**{name: value})
            assert str(raised.value).count("\n") == 0, value
    for name, value in {"seed": -1, "device": "tpu"}.items():
        with pytest.raises(ValueError, match=name):
            run(**{name: value})


def test_the_table_of_parameters_says_what_papermill_says():
    """Every parameter with type, default and meaning as ``papermill --help-notebook`` prints them, and its rule."""
    page = pages.parameter_page()
    rows = [
        [part.strip() for part in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    path = NOTEBOOKS[3]
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--help-notebook", str(path)], capture_output=True, text=True, check=True
    )
    printed = re.findall(r"^  (\w+): (\w+) \(default (.*)\)\s+(.*(?:\n {10,}.*)*)", done.stdout, flags=re.M)
    assert {name for name, *_ in printed} == set(runner.parameters_of(path))
    for name, kind, default, meaning in printed:
        assert [f"`{name}`", kind, default, " ".join(meaning.split())] in [[r[0], r[1], r[2], r[6]] for r in rows], name
    assert ["`cell_size`", "10 to 512"] in [[row[0], row[5]] for row in rows]
    assert ["`discretization`", "continuous, rotated, hex8, bbar"] in [[row[0], row[5]] for row in rows]


def test_a_gpu_is_found_and_named_by_the_first_cell(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", shown.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert notebook.start(0, "auto").type == "cpu" and "CPU" in shown[-1].data
    with pytest.raises(ValueError, match="finds no GPU here"):
        notebook.start(0, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    assert notebook.start(0, "auto").type == notebook.start(0, "cuda").type == "cuda"
    assert "Some GPU" in shown[-1].data
    assert notebook.start(0, "cpu").type == "cpu" and "Some GPU" not in shown[-1].data


@pytest.mark.parametrize("name", ["ci", "laptop", "paper"])
def test_a_profile_means_the_same_in_chapters_data_sets_and_the_whole_experiment(name):
    values = project.read_yaml(runner.PROFILES / f"{name}.yml")
    data, (stage,) = dataset.PROFILES[name], reproduce.PROFILES[name].stages
    assert values["training_size"] == data["size"]
    assert stage.data == data and values["n_train"] == 2 * data["n"] // 5  # of the split 40/20/40
    if name == "paper":
        counts = [values[part] for part in ("n_cells", "n_validation", "n_test")]
        assert counts == [data["n"], data["n"] // 5, 2 * data["n"] // 5]
    assert (values["epochs"], values["batch_size"]) == (stage.config.epochs, stage.config.batch_size)
