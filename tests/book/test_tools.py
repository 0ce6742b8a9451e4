"""The programs that build the book: one at a time, sentences for what is wrong, one file to print, a cell for Colab."""

import fcntl
import importlib.metadata
import os
import re
import runpy
import subprocess
import sys

import pytest

import build
import printing
import project
import run as runner
from rlnlib.book import notebook
from stored import NOTEBOOKS, ROOT


def test_of_two_builds_at_once_the_second_ends_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "BUILD", tmp_path)
    with project.one_at_a_time(), pytest.raises(project.Failure, match="Another build is at work"):
        project.one_at_a_time().__enter__()
    with project.one_at_a_time():  # and after the first there may be another
        pass


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cell_size: [1", r"ci\.yml cannot be read as YAML"),
        ("- cell_size\n- epochs", r"ci\.yml must hold names with values, such as `cell_size: 21`, not \["),
        ("21", "not 21"),
        ("cell_size: 21\n3: 4", r"ci\.yml sets 3, which no notebook has"),
        ("\xe4: 1".encode("latin-1"), r"ci\.yml cannot be read as YAML"),
    ],
)
def test_a_profile_that_cannot_be_used_is_named_in_a_sentence(text, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "PROFILES", tmp_path)
    (tmp_path / "ci.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(project.Failure, match=sentence) as raised:
        runner.profile_values(NOTEBOOKS[0], "ci")
    assert "\n" not in str(raised.value)


def test_without_chromium_printing_ends_with_a_sentence_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "run", lambda profile: pytest.fail("the notebooks were run before"))
    for command in ("pdf", "archive"):
        monkeypatch.setattr(sys, "argv", ["build.py", command])
        assert build.main() == 1
        assert "Chromium prints the PDF file, and is not here" in capsys.readouterr().err
    with pytest.raises(project.Failure, match="Chromium prints the PDF file, and is not here"):
        printing.print_book(tmp_path)


def test_links_and_pictures_of_the_joined_pages_lead_to_places_that_there_are(tmp_path, monkeypatch):
    """Also where two pages have a section of the same name; solutions are printed, folded plotting code is not."""
    monkeypatch.setattr(printing, "contents", lambda: ["book/a", "notebooks/b"])
    head = '<head><title>a — The book</title><link href="../_static/x.css"></head>'
    fold = "<details><summary>Show code cell {}</summary><p>{}</p></details>"
    pages = {
        "book/a": '<h1>A</h1><img src="../_static/x.png"><img src="data:,">'
        '<p id="x"><a href="../notebooks/b.html#x">1</a> <a href="https://example.org/#x">2</a></p>',
        "notebooks/b": f'<h1>B</h1><p id="x"><a href="#x">3</a></p>{fold.format("content", "S")}'
        f"{fold.format('source', 'P')}",
    }
    for name, body in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        text = f"<html>{head}<body><article>{body}</article></body></html>"
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
    with pytest.raises(project.Failure, match=r"book/a shows \.\./_static/x\.png"):
        printing.join_pages(tmp_path)
    (tmp_path / "_static").mkdir()
    for name in ("x.css", "x.png"):
        (tmp_path / "_static" / name).touch()
    joined = printing.join_pages(tmp_path)
    anchors = set(re.findall(r' id="([^"]+)"', joined))
    assert {"book-a", "notebooks-b", "book-a--x", "notebooks-b--x"} <= anchors
    within = re.findall(r'href="#([^"]+)"', joined)
    assert len(within) == 4 and set(within) <= anchors and 'href="https://example.org/#x"' in joined
    assert "<p>S</p>" in joined and "<p>P</p>" not in joined
    assert f'href="{tmp_path.as_uri()}/_static/x.css"' in joined
    assert f'<img src="{tmp_path.as_uri()}/_static/x.png"' in joined and '<img src="data:,"' in joined


def test_the_first_cell_is_six_lines_at_most():
    assert len(notebook.bootstrap("https://github.com/someone/book").splitlines()) <= 6
    assert max(map(len, notebook.bootstrap().splitlines())) <= 88


def test_in_colab_numpy_and_torch_stay_and_only_what_is_missing_is_fetched(tmp_path, monkeypatch):
    """The first cell with git and pip replaced: a machine that has torch and numpy, but neither h5py nor ipywidgets."""
    commands = []

    def run(command, **_):
        commands.append(command)
        if command[0] == "git":
            os.symlink(ROOT, tmp_path / "rln-book")

    class Installed:
        def __init__(self, name, version):
            self.metadata, self.version = {"Name": name}, version

    there = [re.match(r"[\w.-]+", r)[0] for r in importlib.metadata.requires("rlnlib") if "extra ==" not in r]
    there = [Installed(name.upper(), "9.9") for name in there if name != "h5py"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: there)
    exec(notebook.bootstrap("https://github.com/someone/book"), {})
    clone, library, packages = commands
    assert clone[:2] == ["git", "clone"] and clone[-2] == "https://github.com/someone/book"
    assert library[-3:] == ["--no-deps", "-e", "rln-book"]
    assert [re.match(r"\w+", name)[0] for name in packages[packages.index("keep.txt") + 1 :]] == ["h5py", "ipywidgets"]
    assert (tmp_path / "keep.txt").read_text(encoding="utf-8").split() == ["numpy==9.9", "torch==9.9"]


def make(folder, *arguments):
    """Run make as if from a terminal: under another make it would take that one's options and print its own lines."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=variables, capture_output=True, text=True)


def test_the_environment_is_made_again_until_it_was_whole(tmp_path, monkeypatch):
    """What make would do, by its own account: install without a stamp or with another one, and nothing with it."""
    monkeypatch.setenv("MAKEFLAGS", "w")  # as "make test" leaves them to its programs
    monkeypatch.setenv("MAKELEVEL", "1")

    def plan(*options):
        done = make(tmp_path, "-n", "install", f"PYTHON={sys.executable}", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    assert "venv --clear .venv" in plan()
    (stamp,) = set(re.findall(r"touch (\S+)", plan()))
    (tmp_path / ".venv").mkdir()
    assert "venv --clear .venv" in plan()  # half made
    (tmp_path / stamp).touch()
    assert "venv --clear .venv" not in plan()
    with open(tmp_path / "constraints.txt", "a", encoding="utf-8") as file:
        file.write("# another\n")
    assert "venv --clear .venv" in plan()


def test_an_old_python_and_a_second_installation_get_one_sentence_each(tmp_path, monkeypatch):
    monkeypatch.setenv("MAKEFLAGS", "w")
    monkeypatch.setenv("MAKELEVEL", "1")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.1\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)

    def install(python):
        done = make(tmp_path, "install", f"PYTHON={python}")
        return done.returncode, done.stdout

    code, text = install(old)
    assert code and text.splitlines()[0] == (
        "error: Python 3.10 or newer is needed: name one with make PYTHON=/path/to/python."
    )
    with open(tmp_path / ".venv.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, text = install(sys.executable)
    assert code and text.startswith("error: another make is installing into .venv")
    assert not (tmp_path / ".venv").exists()


def test_each_program_says_what_it_does():
    for path in sorted((ROOT / "tools").glob("*.py")):
        assert path.read_text(encoding="utf-8").startswith('"""'), path.name
    with pytest.raises(SystemExit):
        sys.argv, before = ["build.py", "--help"], sys.argv
        try:
            runpy.run_path(str(ROOT / "tools" / "build.py"), run_name="__main__")
        finally:
            sys.argv = before
