"""The stored notebooks: their form, that they are fresh, and that the runner refuses what it should."""

import importlib.util
import re
import shutil
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load("build")
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
    assert build.run_one(path, {"cell_size": 8, "seed": 1, "contrast": 20.0}, "ci", tmp_path) is None
    fresh = nbformat.read(tmp_path / path.name, as_version=4)
    printed = {cell.id: str(cell.outputs) for cell in fresh.cells if cell.cell_type == "code"}
    stored = {cell.id: str(cell.outputs) for cell in cells_of(path)}
    assert printed["cell-06"] != stored["cell-06"] and "(8, 8, 8) voxels" in str(printed)
    assert fresh.metadata["rlnlib"]["parameters"] == {"cell_size": 8, "seed": 1, "contrast": 20.0}
    assert "cell_size = 8" in fresh.cells[1].source


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
    install = load("install")
    monkeypatch.setattr(install.sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match=r"3\.9 is too old: Python 3\.10 or newer"):
        install.main()


def test_an_environment_without_a_whole_stamp_is_not_current(tmp_path, monkeypatch):
    install = load("install")
    monkeypatch.setattr(install, "STAMP", str(tmp_path / "stamp"))
    monkeypatch.setattr(install, "PYTHON", "/bin/true")
    assert not install.is_current()
    (tmp_path / "stamp").write_text(install.stamp()[:-1])
    assert not install.is_current()
    (tmp_path / "stamp").write_text(install.stamp())
    assert install.is_current()
    monkeypatch.setattr(install, "PYTHON", str(tmp_path / "gone"))
    assert not install.is_current()
