"""Run the notebooks and render the book from the executed copies.

python tools/build.py book --profile ci     run what is out of date, render, say where index.html is
python tools/build.py run --profile laptop  run only; copies go to build/PROFILE/
python tools/build.py store                 run at the ci profile and store the outputs in notebooks/
python tools/build.py compare               run what is out of date, compare with the stored outputs (nbval)
python tools/build.py compare --again       run all notebooks for the comparison
python tools/build.py pdf                   print the whole book to one PDF file
python tools/build.py archive               the book, its notebooks, data, weights and lock file in one file
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from pathlib import Path

import nbformat

from printing import find_browser, print_book
from project import BUILD, ROOT, Failure, notebooks, one_at_a_time, repository
from render import render
from rlnlib._version import __version__
from run import add_address, compare, run, store, unaddressed


def archive() -> Path:
    """Pack the rendered book, its PDF, the executed notebooks, data, weights, lock file and checksums into one file."""
    copies = run("ci")
    html = render(copies).parent
    return pack(html, copies, print_book(html))


def pack(html: Path, copies: Path, pdf: Path | None = None) -> Path:
    """The archive of a rendered book and the notebooks that it was rendered from."""
    name = f"rlnlib-book-{__version__}"
    stage, target = BUILD / "archive" / name, BUILD / f"{name}.zip"
    shutil.rmtree(stage.parent, ignore_errors=True)
    shutil.copytree(html, stage / "html", ignore=shutil.ignore_patterns(".buildinfo", ".doctrees"))
    for folder in ("data", "rlnlib", "notebooks", "benchmarks", "experiments"):
        shutil.copytree(ROOT / folder, stage / folder, ignore=shutil.ignore_patterns("generated", "__pycache__", ".*"))
    for path in notebooks():
        copy = nbformat.read(copies / path.name, as_version=4)
        nbformat.write(add_address(copy, repository()), stage / "notebooks" / path.name)
    for file in ("constraints.txt", "pyproject.toml", "environment.yml", "README.md", "LICENSE", "CITATION.cff"):
        shutil.copy(ROOT / file, stage)
    if pdf:
        shutil.copy(pdf, stage)
    files = sorted(p for p in stage.rglob("*") if p.is_file())
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(stage)}\n" for p in files]
    (stage / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")  # check with: sha256sum -c SHA256SUMS
    partial = shutil.make_archive(str(BUILD / "archive" / "partial"), "zip", stage.parent, name)
    os.replace(partial, target)
    shutil.rmtree(stage.parent)
    print(f"{len(files)} files, {target.stat().st_size / 1e6:.0f} MB.", flush=True)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("book", "run", "store", "compare", "pdf", "archive"))
    parser.add_argument("--profile", default="ci")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    try:
        if options.command in ("pdf", "archive"):
            find_browser()  # before minutes of work
        with one_at_a_time():
            if options.command == "run":
                print(f"The copies: {run(options.profile)}")
            elif options.command == "book":
                print(f"The book: {render(run(options.profile))}")
                if unaddressed():
                    print(
                        "Colab opens the stored notebooks, without the book's address: `make notebooks`, commit them."
                    )
            elif options.command == "pdf":
                print(f"The book as a PDF file: {print_book(render(run(options.profile)).parent)}")
            elif options.command == "archive":
                print(f"The archive: {archive()}")
            elif options.command == "compare":
                compare(options.again)
            else:
                store()
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
