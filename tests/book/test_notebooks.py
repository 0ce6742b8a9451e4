"""The stored notebooks: their form, and that they are fresh."""

import re
import shutil

import nbformat

import run as runner
from stored import NOTEBOOKS, ROOT, cells_of, each, tagged


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


FOLDED = {"hide-input", "hide-cell", "remove-cell", "remove-input"}


@each
def test_the_code_that_a_page_shows_is_its_idea_and_fits_beside_the_bars(path):
    """At most 120 lines are in sight, the rest is folded; no line is wider than 88 columns."""
    shown = [cell for cell in cells_of(path) if not FOLDED & set(cell.metadata.get("tags", []))]
    lines = [line for cell in shown for line in cell.source.splitlines() if line.strip()]
    assert 30 <= len(lines) <= 120
    assert not [line for cell in cells_of(path) for line in cell.source.splitlines() if len(line) > 88]


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
    assert stamp == {"key": runner.key(path, runner.profile_values(path, "ci")), "profile": "ci"}


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
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    before = runner.key(NOTEBOOKS[0], {})
    assert runner.key(NOTEBOOKS[0], {}) == before
    with (tmp_path / "rlnlib" / "metrics.py").open("a") as file:
        file.write("TOLERANCE = 2\n")
    assert runner.key(NOTEBOOKS[0], {}) != before
