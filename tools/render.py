"""Build the HTML of the book from executed notebooks, with Jupyter Book; any warning is an error."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

import pages
from project import BUILD, ROOT, Failure, contents, notebooks, repository
from run import add_address

#: Jupyter Book writes this twice although it is switched off, which is an error in the browser.
THEBE = re.compile(r"<script>const THEBE_JS_URL.*?</script>|<script[^>]*sphinx-thebe\.js[^>]*></script>", re.DOTALL)


def render(copies: Path) -> Path:
    """Build the HTML from the executed copies. Returns index.html; raises Failure for a warning or a missing page."""
    stage, partial = BUILD / "stage", BUILD / "html.partial"
    stage_sources(stage, copies)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(stage), "--path-output", str(partial)]
    shutil.rmtree(partial, ignore_errors=True)
    print("Rendering the book.", flush=True)
    done = subprocess.run(
        [*command, "-W", "--keep-going", "-q"],
        cwd=stage,
        env={**os.environ, "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    if done.returncode:
        raise Failure(f"{done.stdout}\nThe book could not be rendered without warnings.")
    for page in (partial / "_build" / "html").rglob("*.html"):
        page.write_text(THEBE.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.rmtree(BUILD / "html", ignore_errors=True)
    os.replace(partial / "_build" / "html", BUILD / "html")
    shutil.rmtree(partial)
    wanted = contents()
    if missing := [page for page in wanted if not (BUILD / "html" / f"{page}.html").exists()]:
        raise Failure(f"Pages are missing from the HTML: {', '.join(missing)}.")
    print(f"{len(wanted)} pages rendered.", flush=True)
    return BUILD / "html" / "index.html"


def stage_sources(stage: Path, copies: Path) -> None:
    """Lay out in one folder what Jupyter Book reads: pages, generated parts, executed notebooks, configuration."""
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(ROOT / "book", stage / "book", ignore=shutil.ignore_patterns(pages.MADE))
    (stage / "notebooks").mkdir()
    for path in notebooks():
        copy = add_address(nbformat.read(copies / path.name, as_version=4), repository())
        nbformat.write(add_anchors(copy), stage / "notebooks" / path.name)
    pages.make(stage / "book", [copies / path.name for path in notebooks()])
    configuration = configure((ROOT / "_config.yml").read_text(encoding="utf-8"), repository())
    (stage / "_config.yml").write_text(configuration, encoding="utf-8")
    for name in ("_toc.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, stage)


def add_anchors(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Put a place to link to before each code cell whose first tag no cell before it has."""
    cells, known = [], set()
    for cell in notebook.cells:
        tag = next(iter(cell.metadata.get("tags", [])), None)
        if cell.cell_type == "code" and tag and tag not in known:
            known.add(tag)
            cells.append(nbformat.v4.new_markdown_cell(f'<a id="cell-{tag}"></a>'))
        cells.append(cell)
    notebook.cells = cells
    return notebook


def configure(text: str, address: str | None) -> str:
    """``_config.yml`` with launch buttons for the repository at ``address``, or without any where it is None."""
    config = yaml.safe_load(text)
    if address:
        branch = os.environ.get("RLN_BRANCH", "main")
        config["repository"] = {"url": address, "branch": branch}
        config["launch_buttons"].update(
            colab_url="https://colab.research.google.com", binderhub_url="https://mybinder.org"
        )
        config["html"]["use_repository_button"] = True
    return yaml.safe_dump(config, sort_keys=False)
