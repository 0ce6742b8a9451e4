"""The stored notebooks: their form, that they are fresh, and that the runner refuses what it should."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import yaml

import build
import install
import parameters_act as act
import pytest_tolerance as tolerance
from rlnlib.book import notebook

ROOT = Path(__file__).resolve().parents[2]


NOTEBOOKS = build.notebooks()
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path, kind="code"):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def tagged(path, tag):
    return [cell for cell in cells_of(path) if tag in cell.metadata.get("tags", [])]


def outputs_of(path):
    return [output for cell in cells_of(path) for output in cell.outputs]


@each
def test_a_notebook_has_the_form_of_the_book(path):
    prose = [cell.source for cell in cells_of(path, "markdown")]
    assert prose[0].startswith("# ") and all(word in prose[0] for word in ("**Shows**", "**Needs**", "**Takes**"))
    assert any("## Summary" in text and "## Exercises" in text for text in prose)
    assert prose[-1].startswith("**Next:**")
    assert len(tagged(path, "hide-cell")) >= 2, "solutions of the exercises"
    (parameters,) = tagged(path, "parameters")
    for line in parameters.source.splitlines():
        assert re.fullmatch(r"\w+: (int|float|str) = \S.*  # \S.*", line), line
    (provenance,) = tagged(path, "provenance")
    assert "notebook.start(seed, device)" in provenance.source
    assert "nbval-ignore-output" in provenance.metadata["tags"]


@each
def test_a_stored_notebook_was_run_in_order_without_errors(path):
    counts = [cell.execution_count for cell in cells_of(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert not [output for output in outputs_of(path) if output.output_type == "error"]
    assert not [output for output in outputs_of(path) if output.get("name") == "stderr"]


@each
def test_a_stored_notebook_is_fresh(path):
    """Outputs belong to the present source, library and data, and to the ci profile: else run `make notebooks`."""
    stamp = nbformat.read(path, as_version=4).metadata["rlnlib"]
    assert stamp == {"key": build.key(path, build.parameters(path, "ci")), "profile": "ci"}


def test_a_key_sees_source_parameters_and_library(tmp_path):
    path, values = NOTEBOOKS[0], {"seed": 0}
    before = build.key(path, values)
    assert before == build.key(path, values) != build.key(path, {"seed": 1})
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].source += " "
    nbformat.write(notebook, tmp_path / path.name)
    assert build.key(tmp_path / path.name, values) != before


@each
def test_stored_outputs_hold_no_paths_of_a_machine(path):
    assert not re.search(r"/(home|root|Users|work|tmp)/", str(outputs_of(path)))


@each
def test_every_figure_has_caption_and_alternative(path):
    pages = [output.data.get("text/html", "") for output in outputs_of(path) if "data" in output]
    figures = [page for page in pages if "<img" in page]
    assert figures
    for page in figures:
        assert re.search(r'<img alt="[^"]{40,}"', page) and re.search(r"<figcaption>.{40,}</figcaption>", page)
    assert not [output for output in outputs_of(path) if "image/png" in output.get("data", {})]


def test_the_ci_profile_is_the_default_and_every_profile_sets_known_names():
    names = {name for path in NOTEBOOKS for name in build.declared(path)}
    profiles = {file.stem: yaml.safe_load(file.read_text()) for file in build.PROFILES.glob("*.yml")}
    assert set(profiles) == {"ci", "laptop", "paper"}
    for values in profiles.values():
        assert set(values) == set(profiles["ci"]) <= names
    for path in NOTEBOOKS:
        for name, entry in build.declared(path).items():
            if name in profiles["ci"]:
                assert str(profiles["ci"][name]) == entry["default"], (path.name, name)


def test_a_name_means_the_same_in_every_notebook():
    seen = {}
    for path in NOTEBOOKS:
        for name, entry in build.declared(path).items():
            assert seen.setdefault(name, entry["inferred_type_name"]) == entry["inferred_type_name"], name


def test_unknown_profiles_and_names_are_refused(tmp_path, monkeypatch):
    with pytest.raises(build.Failure, match="no profile 'huge'"):
        build.parameters(NOTEBOOKS[0], "huge")
    monkeypatch.setattr(build, "PROFILES", tmp_path)
    (tmp_path / "odd.yml").write_text("cell_sise: 3")
    with pytest.raises(build.Failure, match="cell_sise"):
        build.parameters(NOTEBOOKS[0], "odd")


def test_a_run_with_other_parameters_gives_other_outputs(tmp_path):
    path = NOTEBOOKS[0]
    assert build.run_one(path, {"cell_size": 10, "seed": 1, "contrast": 20.0}, "ci", tmp_path) is None
    fresh = nbformat.read(tmp_path / path.name, as_version=4)
    printed = {cell.id: str(cell.outputs) for cell in fresh.cells if cell.cell_type == "code"}
    stored = {cell.id: str(cell.outputs) for cell in cells_of(path)}
    assert printed["cell-06"] != stored["cell-06"] and "(10, 10, 10) voxels" in str(printed)
    assert fresh.metadata["rlnlib"]["parameters"] == {"cell_size": 10, "seed": 1, "contrast": 20.0}
    assert "cell_size = 10" in fresh.cells[1].source


def test_a_failing_notebook_is_named_with_cell_and_error(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Canary"), nbformat.v4.new_code_cell("1 / 0")],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, tmp_path / "canary.ipynb")
    message = build.run_one(tmp_path / "canary.ipynb", {}, "ci", tmp_path)
    assert re.search(r"canary\.ipynb: cell 1 .*ZeroDivisionError", message) is not None
    assert build.stamp_of(tmp_path / "canary.partial.ipynb") == {}


def test_a_notebook_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import time; time.sleep(60)")])
    nbformat.write(notebook, tmp_path / "slow.ipynb")
    monkeypatch.setitem(build.LIMIT, "ci", 4)
    assert "stopped after 4 s" in build.run_one(tmp_path / "slow.ipynb", {}, "ci", tmp_path)


def test_comparing_stored_outputs_can_fail(tmp_path, monkeypatch):
    """A number that the stored output does not hold makes the comparison fail."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("print(1)") for _ in range(2)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    for number, (cell, text) in enumerate(zip(notebook.cells, ("1\n", "2\n"), strict=True), start=1):
        cell.outputs = [nbformat.v4.new_output("stream", text=text)]
        cell.execution_count = number
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    monkeypatch.setattr(build, "notebooks", lambda: [tmp_path / "wrong.ipynb"])
    with pytest.raises(build.Failure, match="the floor is"):
        build.compare()
    monkeypatch.setattr(build, "COMPARED_FLOOR", 2)
    with pytest.raises(build.Failure, match="1 notebooks differ"):
        build.compare()


def test_half_a_copy_does_not_count(tmp_path):
    shutil.copy(NOTEBOOKS[0], tmp_path / "copy.ipynb")
    assert build.stamp_of(tmp_path / "copy.ipynb")
    content = (tmp_path / "copy.ipynb").read_bytes()
    (tmp_path / "copy.ipynb").write_bytes(content[: len(content) // 2])
    assert build.stamp_of(tmp_path / "copy.ipynb") == {}


def test_an_old_python_gets_one_sentence(monkeypatch):
    monkeypatch.setattr(install.sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match=r"3\.9 is too old: Python 3\.10 or newer"):
        install.main()


def test_an_environment_without_a_whole_stamp_is_not_current(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "STAMP", str(tmp_path / "stamp"))
    monkeypatch.setattr(install, "PYTHON", "/bin/true")
    assert not install.is_current()
    (tmp_path / "stamp").write_text(install.stamp()[:-1])
    assert not install.is_current()
    (tmp_path / "stamp").write_text(install.stamp())
    assert install.is_current()
    monkeypatch.setattr(install, "PYTHON", str(tmp_path / "gone"))
    assert not install.is_current()


def small(tmp_path, *sources, outputs=None, name="small"):
    """A notebook of code cells with the outputs as stored; the kernel is the one that runs the tests."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in sources], metadata={"kernelspec": kernel}
    )
    for number, (cell, text) in enumerate(zip(notebook.cells, outputs or (), strict=False), start=1):
        cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text=text)], number
    nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    return tmp_path / f"{name}.ipynb"


def test_a_canary_that_must_fail_fails_in_the_comparison(tmp_path, monkeypatch):
    """Also a cell that raises where the stored output printed."""
    path = small(tmp_path, "print(1)", "raise SystemError('canary')", outputs=("1\n", "2\n"))
    monkeypatch.setattr(build, "notebooks", lambda: [path])
    monkeypatch.setattr(build, "COMPARED_FLOOR", 2)
    with pytest.raises(build.Failure, match="canary"):
        build.compare()


@pytest.mark.parametrize(
    ("stored", "new", "same"),
    [
        ("MASE 1.23 %", "MASE 1.24 %", True),  # one unit of the last digit
        ("MASE 1.23 %", "MASE 1.26 %", False),  # three
        ("MASE 1.23 %", "mase 1.23 %", False),  # a word
        ("of which 51 % lie", "of which 52 % lie", True),
        ("of which 51 % lie", "of which 54 % lie", False),
        ("37 iterations", "38 iterations", False),  # a whole number
        ("shape (8, 8, 8)", "shape (8, 8, 9)", False),
        ("error    9.99", "error   10.00", True),  # the column is narrower
        ("mean -0.0", "mean  0.0", True),
        ("mean -0.3", "mean  0.3", False),
        ("residual 3.1e-09", "residual 3.2e-09", True),
        ("residual 3.1e-09", "residual 3.4e-09", False),
        ('{"value": 0.123456789012}', '{"value": 0.123456799012}', True),  # six digits count
        ('{"value": 0.123456789012}', '{"value": 0.123486789012}', False),
        ("132,801 weights", "132,802 weights", False),
        ("C11 of cell-06", "C12 of cell-06", False),  # digits of a name
        ("converged: True", "converged: False", False),
        ("1.0 and 2.0", "1.0", False),
        ("a 1.0", "a 1.0\n", False),
        ("16³ voxels", "15³ voxels", False),
        ("1.5 nan", "1.5 1.0", False),
    ],
)
def test_numbers_agree_to_their_last_digit_and_words_exactly(stored, new, same):
    assert tolerance.agree(stored, new) == tolerance.agree(new, stored) == same
    assert (tolerance.Printed(stored) == new) == same != (tolerance.Printed(stored) != new)


def test_the_comparison_passes_one_unit_of_the_last_digit_and_fails_at_three(tmp_path, monkeypatch):
    """Through nbval, for printed text and for a measured value."""
    measured = "from IPython.display import display\ndisplay({'application/json': {'value': 2.5}}, raw=True)"
    path = small(tmp_path, "print('error 1.25 %')", measured, outputs=("error 1.24 %\n", ""))
    notebook = nbformat.read(path, as_version=4)
    monkeypatch.setattr(build, "notebooks", lambda: [path])
    monkeypatch.setattr(build, "COMPARED_FLOOR", 2)

    def compare(printed, value):
        notebook.cells[0].outputs[0].text = f"error {printed} %\n"
        output = nbformat.v4.new_output("display_data", data={"application/json": {"value": value}})
        notebook.cells[1].outputs = [output]
        nbformat.write(notebook, path)
        build.compare()

    compare("1.24", 2.6)
    for stored in (("1.22", 2.5), ("1.25", 2.8)):
        with pytest.raises(build.Failure, match="1 notebooks differ"):
            compare(*stored)


def test_a_changed_constant_of_the_library_makes_the_comparison_fail(tmp_path, monkeypatch):
    """In a copy of the library, strains are reported a little too large; the unchanged copy passes."""
    shutil.copytree(ROOT / "rlnlib", tmp_path / "rlnlib", ignore=shutil.ignore_patterns("__pycache__"))
    source = (
        "import torch, rlnlib\nprint(f'{float(rlnlib.mase(torch.ones(1, 2, 2, 2) * 1.1, torch.ones(1, 2, 2, 2))):.3f}')"
    )
    path = small(tmp_path, source, outputs=("10.000\n",))
    monkeypatch.setattr(build, "notebooks", lambda: [path])
    monkeypatch.setattr(build, "COMPARED_FLOOR", 1)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    build.compare()
    metrics = tmp_path / "rlnlib" / "metrics.py"
    changed = metrics.read_text().replace("100", "101")
    assert changed != metrics.read_text()
    metrics.write_text(changed)
    with pytest.raises(build.Failure, match="1 notebooks differ"):
        build.compare()


def faults(notebook, key):
    """What is wrong with a stored notebook."""
    found = []
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        found.append("order")
    if notebook.metadata.get("rlnlib", {}) != {"key": key, "profile": "ci"}:
        found.append("stale")
    if re.search(r"/(home|root|Users|work|tmp)/", str([c.get("outputs") for c in notebook.cells])):
        found.append("path")
    return found


def test_stale_disordered_foreign_and_misprofiled_notebooks_are_found():
    """Each fault, put on a good notebook, is found, and nothing else is."""
    path = NOTEBOOKS[0]
    key = nbformat.read(path, as_version=4).metadata["rlnlib"]["key"]

    def fault(change):
        notebook = nbformat.read(path, as_version=4)
        change(notebook, [cell for cell in notebook.cells if cell.cell_type == "code"])
        return faults(notebook, key)

    assert fault(lambda notebook, code: None) == []
    assert fault(lambda notebook, code: code[0].update(execution_count=9)) == ["order"]
    assert fault(lambda notebook, code: notebook.metadata["rlnlib"].update(key="0")) == ["stale"]
    assert fault(lambda notebook, code: notebook.metadata["rlnlib"].update(profile="paper")) == ["stale"]
    output = nbformat.v4.new_output("stream", text="/home/someone/data.h5")
    assert fault(lambda notebook, code: code[0].outputs.append(output)) == ["path"]


def test_a_key_sees_a_constant_of_the_library(tmp_path, monkeypatch):
    for folder in ("rlnlib", "data"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("generated", "__pycache__"))
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    before = build.key(NOTEBOOKS[0], {})
    assert build.key(NOTEBOOKS[0], {}) == before
    with (tmp_path / "rlnlib" / "metrics.py").open("a") as file:
        file.write("TOLERANCE = 2\n")
    assert build.key(NOTEBOOKS[0], {}) != before


@each
def test_each_parameter_is_used_after_the_parameters_cell(path):
    """A name that no later cell reads cannot act."""
    seen_tag, read = False, set()
    for cell in cells_of(path):
        if seen_tag:
            read |= {n.id for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Name)}
        seen_tag = seen_tag or "parameters" in cell.metadata.get("tags", [])
    assert not set(build.declared(path)) - read


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
            defaults = {name: ast.literal_eval(entry["default"]) for name, entry in build.declared(path).items()}
            values = {**defaults, **build.parameters(path, profile)}
            notebook.check(**{name: value for name, value in values.items() if name in notebook.ALLOWED})
            unruled = set(values) - set(notebook.ALLOWED) - {"seed", "device", "cell_file", "run_folder"}
            assert not unruled, (path.name, unruled)


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
    assert checked(first_cells(path)[1]) == set(build.declared(path)) - set(UNRULED)


def test_a_parameter_that_is_not_checked_is_found_out():
    assert checked("notebook.check(cell_size=cell_size, contrast=3)\ncheck(n_test=n_test)") == {"cell_size"}


def bad_values(name):
    """Values that no notebook can use, by the rule of the name."""
    if name == "cell_file":
        return ["no_such_file.tif"]
    allowed = notebook.ALLOWED[name]
    if isinstance(allowed[0], str):
        return ["nothing", 3]
    least, greatest = allowed
    return [least - 1, -3, greatest + 1, True, "many", float("nan"), *([least + 0.5] * isinstance(least, int))]


@each
def test_bad_values_stop_a_notebook_in_its_first_cell(path):
    """Parameters as papermill sets them, one after another bad; with its own values the cell passes."""
    parameters, provenance = first_cells(path)

    def run(**changed):
        names = {}
        exec(parameters, names)
        names.update(changed)
        exec(provenance, names)

    run()
    for name in set(build.declared(path)) - set(UNRULED):
        for value in bad_values(name):
            with pytest.raises(ValueError, match=name) as raised:
                run(**{name: value})
            assert str(raised.value).count("\n") == 0, value
    for name, value in {"seed": -1, "device": "tpu"}.items():
        with pytest.raises(ValueError, match=name):
            run(**{name: value})


def test_the_table_of_parameters_says_what_papermill_says():
    """Every parameter with type, default and meaning as ``papermill --help-notebook`` prints them, and its rule."""
    page = build.parameter_page()
    rows = [
        [part.strip() for part in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    path = NOTEBOOKS[3]
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--help-notebook", str(path)], capture_output=True, text=True, check=True
    )
    printed = re.findall(r"^  (\w+): (\w+) \(default (.*)\)\s+(.*(?:\n {10,}.*)*)", done.stdout, flags=re.M)
    assert {name for name, *_ in printed} == set(build.declared(path))
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


def test_launch_buttons_stand_only_where_there_is_an_address(monkeypatch):
    text = (ROOT / "_config.yml").read_text()
    without = yaml.safe_load(build.configured(text, None))
    assert "repository" not in without and "colab_url" not in without["launch_buttons"]
    monkeypatch.setenv("RLN_REPOSITORY", "git@github.com:someone/book.git")
    address = build.repository()
    assert address == "https://github.com/someone/book"
    with_buttons = yaml.safe_load(build.configured(text, address))
    assert with_buttons["repository"]["url"] == address
    assert {"colab_url", "binderhub_url"} <= set(with_buttons["launch_buttons"])
    monkeypatch.setenv("RLN_REPOSITORY", "my repository")
    with pytest.raises(build.Failure, match="RLN_REPOSITORY must be an address"):
        build.repository()


def test_one_address_stands_in_buttons_and_in_the_cell_that_fetches_the_library(monkeypatch, tmp_path):
    """A notebook with an address is as fresh as one without; all stored ones have the same."""
    monkeypatch.setenv("RLN_REPOSITORY", "git@github.com:someone/book.git")
    notebook = build.addressed(nbformat.read(NOTEBOOKS[0], as_version=4), build.repository())
    (cell,) = [cell for cell in notebook.cells if "bootstrap" in cell.metadata.get("tags", [])]
    assert 'get("RLN_REPOSITORY") or "https://github.com/someone/book"' in cell.source
    ast.parse(cell.source)
    nbformat.write(notebook, tmp_path / "addressed.ipynb")
    assert build.key(tmp_path / "addressed.ipynb", {}) == build.key(NOTEBOOKS[0], {})
    assert act.source_hash(tmp_path / "addressed.ipynb") == act.source_hash(NOTEBOOKS[0])
    assert len({tagged(path, "bootstrap")[0].source for path in NOTEBOOKS}) == 1


def test_workflows_call_the_make_targets_and_nothing_else():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        runs = re.findall(r"run: (.*)", file.read_text())
        matrix = re.search(r"target: \[(.*)\]", file.read_text())
        called = {run.removeprefix("make ") for run in runs}
        called = called - {"${{ matrix.target }}"} | set(matrix[1].split(", ") if matrix else [])
        assert runs and called <= targets
        if "test" in called:
            assert "RLN_BROWSER: required" in file.read_text(), "else a missing browser skips the tests of the pages"
