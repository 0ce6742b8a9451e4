"""What runs and compares the notebooks: what it sees, what it refuses, and that it can fail."""

import ast
import re
import shutil

import nbformat
import pytest
import yaml

import parameters_act as act
import project
import pytest_tolerance as tolerance
import render
import run as runner
from stored import NOTEBOOKS, ROOT, cells_of, tagged


def test_a_key_sees_source_parameters_and_library(tmp_path):
    path, values = NOTEBOOKS[0], {"seed": 0}
    before = runner.key(path, values)
    assert before == runner.key(path, values) != runner.key(path, {"seed": 1})
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].source += " "
    nbformat.write(notebook, tmp_path / path.name)
    assert runner.key(tmp_path / path.name, values) != before


def test_unknown_profiles_and_names_are_refused(tmp_path, monkeypatch):
    with pytest.raises(project.Failure, match="no profile 'huge'"):
        runner.profile_values(NOTEBOOKS[0], "huge")
    monkeypatch.setattr(runner, "PROFILES", tmp_path)
    (tmp_path / "odd.yml").write_text("cell_sise: 3")
    with pytest.raises(project.Failure, match="cell_sise"):
        runner.profile_values(NOTEBOOKS[0], "odd")


def test_a_run_with_other_parameters_gives_other_outputs(tmp_path):
    (path,) = (path for path in NOTEBOOKS if path.stem == "02_elastic_localization")
    job = (path, {"cell_size": 10, "seed": 1, "contrast": 20.0}, tmp_path)
    assert runner.run_each([job], "ci") == [None]
    fresh = nbformat.read(tmp_path / path.name, as_version=4)
    printed = {cell.id: str(cell.outputs) for cell in fresh.cells if cell.cell_type == "code"}
    stored = {cell.id: str(cell.outputs) for cell in cells_of(path)}
    assert printed["cell-06"] != stored["cell-06"] and "(10, 10, 10) voxels" in str(printed)
    assert fresh.metadata["rlnlib"]["parameters"] == {"cell_size": 10, "seed": 1, "contrast": 20.0}
    assert "cell_size = 10" in fresh.cells[1].source


def test_a_notebook_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import time; time.sleep(60)")])
    nbformat.write(notebook, tmp_path / "slow.ipynb")
    monkeypatch.setitem(runner.LIMIT, "ci", 2)
    (error,) = runner.run_each([(tmp_path / "slow.ipynb", {}, tmp_path)], "ci")
    assert "stopped after 2 s" in error


def test_half_a_copy_does_not_count(tmp_path):
    shutil.copy(NOTEBOOKS[0], tmp_path / "copy.ipynb")
    assert runner.read_stamp(tmp_path / "copy.ipynb")
    content = (tmp_path / "copy.ipynb").read_bytes()
    (tmp_path / "copy.ipynb").write_bytes(content[: len(content) // 2])
    assert runner.read_stamp(tmp_path / "copy.ipynb") == {}


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


def executed(tmp_path, path, *outputs):
    """Put the copy in place that a run with these outputs leaves; to run it takes seconds."""
    notebook = nbformat.read(path, as_version=4)
    for cell, output in zip(notebook.cells, outputs, strict=True):
        cell.outputs = [output]
    copy = tmp_path / "build" / "ci" / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, copy)
    runner.stamp(copy, path, {}, "ci", 0)
    return copy


def printed(text):
    return nbformat.v4.new_output("stream", text=text)


def displayed(value):
    return nbformat.v4.new_output("display_data", data={"application/json": {"value": value}})


def these_only(monkeypatch, tmp_path, paths):
    """Let the runner see only these notebooks, and put their copies under tmp_path."""
    monkeypatch.setattr(runner, "notebooks", lambda: paths)
    monkeypatch.setattr(runner, "profile_values", lambda path, profile: {})
    monkeypatch.setattr(runner, "BUILD", tmp_path / "build")


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
        ("missed by 2e-13", "missed by 0", True),  # both are rounding
        ("missed by 6e-07", "missed by 2e-06", True),
        ("missed by 2e-13", "missed by 2e-04", False),
        ("residual 2e-13", "residual 8e-13", False),  # no check
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


def test_the_comparison_passes_one_unit_of_the_last_digit_and_nothing_more(tmp_path, monkeypatch):
    """Through nbval: printed text, a measured value, a line more than the stored one printed."""
    paths = []
    for name, text, value in (("equal", "1.24", 2.6), ("printed", "1.22", 2.5), ("measured", "1.25", 2.8)):
        path = small(tmp_path, "the text", "the value", outputs=(f"error {text} %\n", ""), name=name)
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[1].outputs = [displayed(value)]
        nbformat.write(notebook, path)
        executed(tmp_path, path, printed("error 1.25 %\n"), displayed(2.5))
        paths.append(path)
    paths.append(small(tmp_path, "print(1); print(2)", outputs=("1\n",), name="more"))
    executed(tmp_path, paths[-1], printed("1\n2\n"))
    these_only(monkeypatch, tmp_path, paths)
    with pytest.raises(project.Failure, match=r"3 notebooks differ.*: measured\.ipynb, more\.ipynb, printed\.ipynb"):
        runner.compare()


def test_a_notebook_that_raises_where_it_printed_fails_the_comparison_and_is_named_with_its_cell(tmp_path, monkeypatch):
    path = small(tmp_path, "raise SystemError('canary')", outputs=("2\n",), name="raises")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# Canary"))
    nbformat.write(notebook, path)
    these_only(monkeypatch, tmp_path, [path])
    with pytest.raises(project.Failure, match=r"raises\.ipynb: cell 1 .*SystemError: canary"):
        runner.compare()
    (partial,) = (tmp_path / "build" / "ci").glob("*.partial.ipynb")
    assert runner.read_stamp(partial) == {}


def test_the_comparison_takes_the_copies_of_the_book_or_runs_all_again(tmp_path, monkeypatch):
    """A copy that is up to date is compared as it is; one of other code, or of fewer cells, is found."""
    path = small(tmp_path, "print('error 1.25 %')", outputs=("error 1.25 %\n",))
    these_only(monkeypatch, tmp_path, [path])
    copy = executed(tmp_path, path, printed("error 1.50 %\n"))
    with pytest.raises(project.Failure, match="1 notebooks differ"):
        runner.compare()
    runner.compare(again=True)
    notebook = nbformat.read(copy, as_version=4)
    (code,) = (cell for cell in notebook.cells if cell.cell_type == "code")
    code.source = "print('error 1.50 %')"
    nbformat.write(notebook, copy)
    with pytest.raises(project.Failure, match="has another code cell"):
        runner.compare()


def test_a_notebook_that_has_nothing_to_compare_fails(tmp_path, monkeypatch):
    path = small(tmp_path, "print(1)", "print(2)", outputs=("1\n",))
    monkeypatch.setattr(runner, "notebooks", lambda: [path])
    assert runner.count_comparable(path) == 1
    small(tmp_path, "print(1)", "print(2)")
    with pytest.raises(project.Failure, match=r"Too few stored outputs to compare in small\.ipynb"):
        runner.compare()


def test_a_changed_constant_of_the_library_makes_the_comparison_fail(tmp_path, monkeypatch):
    """In a copy of the library, errors are reported one percent too large: 10.1 where 10 stands."""
    shutil.copytree(ROOT / "rlnlib", tmp_path / "rlnlib", ignore=shutil.ignore_patterns("__pycache__"))
    source = (
        "import torch, rlnlib\nprint(f'{float(rlnlib.mase(torch.ones(1, 2, 2, 2) * 1.1, torch.ones(1, 2, 2, 2))):.3f}')"
    )
    path = small(tmp_path, source, outputs=("10.000\n",))
    these_only(monkeypatch, tmp_path, [path])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    metrics = tmp_path / "rlnlib" / "metrics.py"
    changed = metrics.read_text().replace("100", "101")
    assert changed != metrics.read_text()
    metrics.write_text(changed)
    with pytest.raises(project.Failure, match=r"(?s)10\.100.*1 notebooks differ"):
        runner.compare(again=True)


def test_launch_buttons_stand_only_where_there_is_an_address(monkeypatch):
    text = (ROOT / "_config.yml").read_text()
    without = yaml.safe_load(render.configure(text, None))
    assert "repository" not in without and "colab_url" not in without["launch_buttons"]
    monkeypatch.setenv("RLN_REPOSITORY", "git@github.com:someone/book.git")
    address = project.repository()
    assert address == "https://github.com/someone/book"
    with_buttons = yaml.safe_load(render.configure(text, address))
    assert with_buttons["repository"]["url"] == address
    assert {"colab_url", "binderhub_url"} <= set(with_buttons["launch_buttons"])
    monkeypatch.setenv("RLN_REPOSITORY", "my repository")
    with pytest.raises(project.Failure, match="RLN_REPOSITORY must be an address"):
        project.repository()


def test_one_address_stands_in_buttons_and_in_the_cell_that_fetches_the_library(monkeypatch, tmp_path):
    """A notebook with an address is as fresh as one without; all stored ones have the same."""
    monkeypatch.setenv("RLN_REPOSITORY", "git@github.com:someone/book.git")
    notebook = runner.add_address(nbformat.read(NOTEBOOKS[0], as_version=4), project.repository())
    (cell,) = [cell for cell in notebook.cells if "bootstrap" in cell.metadata.get("tags", [])]
    assert 'get("RLN_REPOSITORY") or "https://github.com/someone/book"' in cell.source
    ast.parse(cell.source)
    nbformat.write(notebook, tmp_path / "addressed.ipynb")
    assert runner.key(tmp_path / "addressed.ipynb", {}) == runner.key(NOTEBOOKS[0], {})
    assert act.source_hash(tmp_path / "addressed.ipynb") == act.source_hash(NOTEBOOKS[0])
    assert len({tagged(path, "bootstrap")[0].source for path in NOTEBOOKS}) == 1


def test_a_stored_notebook_that_does_not_name_the_address_of_the_book_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("RLN_REPOSITORY", "https://github.com/someone/book")
    path = small(tmp_path, "")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].metadata["tags"] = ["bootstrap"]
    monkeypatch.setattr(runner, "notebooks", lambda: [path])
    for address, found in (
        (None, [path.name]),
        ("https://github.com/other/book", [path.name]),
        (project.repository(), []),
    ):
        nbformat.write(runner.add_address(notebook, address), path)
        assert runner.unaddressed() == found
    monkeypatch.setattr(runner, "repository", lambda: None)
    assert runner.unaddressed() == []


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
