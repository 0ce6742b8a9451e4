"""Run the notebooks with papermill and render the book from the executed copies.

    python tools/build.py book --profile ci     run what is out of date, render, say where index.html is
    python tools/build.py run --profile laptop  run only; copies go to build/PROFILE/
    python tools/build.py store                 run at the ci profile and store the outputs in notebooks/
    python tools/build.py compare               run the stored notebooks again and compare the outputs (nbval)
    python tools/build.py archive               the book, its notebooks, data, weights and lock file in one file

A copy is kept while its key holds: a hash of the notebook's source, its parameters, the library, the data and the
pinned packages. Copies are written in full before they get their name.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import papermill
import yaml

from rlnlib._version import __version__
from rlnlib.book import claims
from rlnlib.book.notebook import ALLOWED, bootstrap
from rlnlib.provenance import current_commit

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for whoever imports this file from elsewhere
import benchmark_page
import model_card_page

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ROOT / "notebooks" / "profiles"
BUILD = ROOT / "build"
#: Seconds that one notebook may take by the clock. The ci profile aims at 30; the others may train for hours.
LIMIT = {"ci": 300}
#: Cells that `compare` must at least have compared, so that a suite that compares nothing fails.
COMPARED_FLOOR = 110

#: Jupyter Book writes this twice although it is switched off, which is an error in the browser.
THEBE = re.compile(r"<script>const THEBE_JS_URL.*?</script>|<script[^>]*sphinx-thebe\.js[^>]*></script>", re.DOTALL)


class Failure(Exception):
    """Ends the command with one sentence."""


def notebooks() -> list[Path]:
    """The notebooks of the table of contents, in its order."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    found = [ROOT / f"{file}.ipynb" for file in files if file.startswith("notebooks/")]
    if missing := [path.name for path in found if not path.exists()]:
        raise Failure(f"_toc.yml lists notebooks that do not exist: {', '.join(missing)}.")
    return found


def declared(path: Path) -> dict:
    """The parameters of a notebook as papermill reads them."""
    return papermill.inspect_notebook(str(path))


def parameters(path: Path, profile: str) -> dict:
    """What a profile sets for a notebook; a name that no notebook declares is refused."""
    file = PROFILES / f"{profile}.yml"
    if not file.exists():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yml")))
        raise Failure(f"There is no profile {profile!r}; there are {known}.")
    values = yaml.safe_load(file.read_text()) or {}
    known = {name for notebook in notebooks() for name in declared(notebook)}
    if unknown := sorted(set(values) - known):
        raise Failure(f"{file.name} sets {', '.join(unknown)}, which no notebook has as a parameter.")
    return {name: value for name, value in values.items() if name in declared(path)}


def key(path: Path, values: dict) -> str:
    """What an executed copy depends on; outputs do not count, nor the cell that :func:`addressed` makes."""
    content = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for cell in nbformat.read(path, as_version=4).cells:
        if "bootstrap" not in cell.metadata.get("tags", []):
            content.update(f"{cell.cell_type}\0{cell.source}\0{cell.metadata.get('tags', [])}\0".encode())
    data = [p for p in (ROOT / "data").rglob("*") if p.is_file() and "generated" not in p.parts]
    data += (ROOT / "benchmarks" / "results").glob("*.json")
    for file in sorted([*(ROOT / "rlnlib").rglob("*.py"), *data, ROOT / "constraints.txt"]):
        content.update(str(file.relative_to(ROOT)).encode() + hashlib.sha256(file.read_bytes()).digest())
    return content.hexdigest()


def stamp_of(path: Path) -> dict:
    """What :func:`run_one` recorded in a copy, or nothing if there is no complete copy."""
    try:
        return nbformat.read(path, as_version=4).metadata.get("rlnlib", {})
    except (OSError, ValueError, nbformat.reader.NotJSONError):
        return {}


def run(profile: str) -> Path:
    """Run the notebooks whose copies are out of date, two at a time; returns the folder of the copies."""
    out = BUILD / profile
    out.mkdir(parents=True, exist_ok=True)
    wanted = [(path, parameters(path, profile)) for path in notebooks()]
    stale = [(p, v) for p, v in wanted if stamp_of(out / p.name).get("key") != key(p, v)]
    print(f"{len(wanted)} notebooks, {len(stale)} to run at the {profile} profile.", flush=True)
    with ThreadPoolExecutor(2) as pool:
        errors = [error for error in pool.map(lambda job: run_one(*job, profile, out), stale) if error]
    if errors:
        raise Failure("\n".join(errors))
    cells = sum(stamp_of(out / p.name)["cells"] for p, _ in wanted)
    print(f"{cells} cells executed in the {len(wanted)} copies.", flush=True)
    return out


def run_one(path: Path, values: dict, profile: str, out: Path) -> str | None:
    """Run one notebook in a process of its own; returns None, or what went wrong."""
    partial, settings = out / f"{path.stem}.partial.ipynb", out / f"{path.stem}.yml"
    settings.write_text(yaml.safe_dump(values))
    environment = {**os.environ, "RLN_PROFILE": profile}
    if profile == "ci":  # two notebooks at a time on two cores
        environment.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    command = [sys.executable, "-m", "papermill", str(path), str(partial), "-f", str(settings), "-k", "python3"]
    command += ["--no-progress-bar", "--log-level", "ERROR", "--cwd", str(path.parent)]
    started = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=LIMIT.get(profile))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return f"{path.name}: stopped after {LIMIT[profile]} s, the limit of the {profile} profile."
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    seconds = time.monotonic() - started
    if process.returncode:
        print(f"  {path.name}: FAILED after {seconds:.0f} s", flush=True)
        return f"{path.name}: {error_of(partial) or output.strip()[-2000:]}"
    stamped(partial, path, values, profile, seconds)
    os.replace(partial, out / path.name)
    settings.unlink()
    print(f"  {path.name}: {seconds:.0f} s", flush=True)
    return None


def error_of(path: Path) -> str | None:
    """The cell and error at which a run stopped."""
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (OSError, ValueError, nbformat.reader.NotJSONError):
        return None
    inserted = {"injected-parameters", "papermill-error-cell-tag"}  # by papermill
    for number, cell in enumerate(cell for cell in cells if not inserted & set(cell.metadata.get("tags", []))):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                tags = ", ".join(cell.metadata.get("tags", [])) or "no tag"
                return f"cell {number} ({tags}): {output.ename}: {output.evalue}\n{cell.source}"
    return None


def stamped(partial: Path, source: Path, values: dict, profile: str, seconds: float) -> None:
    """Record in an executed copy what made it, and say so in a line under its title."""
    notebook = nbformat.read(partial, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    made = {
        "commit": current_commit() or "unknown",
        "key": key(source, values),
        "profile": profile,
        "parameters": values,
        "cells": sum(cell.execution_count is not None for cell in code),
        "seconds": round(seconds),
        "date": datetime.date.today().isoformat(),
    }
    notebook.metadata["rlnlib"] = made
    notebook.metadata.pop("papermill", None)  # names folders of this machine; what counts stands in ours
    notebook.metadata.pop("widgets", None)  # no kernel answers them on the page, where a player takes their place
    shown = ", ".join(f"{name} = {value}" for name, value in values.items()) or "none"
    line = (
        f"Executed on {made['date']} at the `{profile}` profile in {made['seconds']} s, from commit {made['commit']}, "
    )
    line += f"{made['cells']} cells. Parameters: {shown}."
    injected = [n for n, cell in enumerate(notebook.cells) if "injected-parameters" in cell.metadata.get("tags", [])]
    for n in reversed(injected):  # the line names them
        del notebook.cells[n]
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(f":::{{admonition}} Provenance\n:class: note\n{line}\n:::"))
    nbformat.write(notebook, partial)


def store() -> None:
    """Run at the ci profile, and store the outputs in the notebooks themselves."""
    out = run("ci")
    for path in notebooks():
        source, copy = nbformat.read(path, as_version=4), nbformat.read(out / path.name, as_version=4)
        executed = {cell.id: cell for cell in copy.cells if cell.cell_type == "code"}
        number = 0
        for cell in source.cells:
            if cell.cell_type == "code":
                number += 1
                cell.outputs, cell.execution_count = executed[cell.id].outputs, number
                cell.metadata = {k: v for k, v in cell.metadata.items() if k in ("tags", "mystnb")}
                for output in cell.outputs:
                    if "execution_count" in output:
                        output["execution_count"] = number
        made = copy.metadata["rlnlib"]
        source.metadata = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "rlnlib": {"key": made["key"], "profile": "ci"},
        }
        partial = path.with_suffix(".partial")
        nbformat.write(addressed(source, repository()), partial)
        os.replace(partial, path)
    print("Stored the outputs in notebooks/.", flush=True)


def compare() -> None:
    """Run the stored notebooks and compare the outputs with nbval, numbers within the tolerance of ``tolerance.py``.

    Fails below the floor of compared cells.
    """
    counts = {
        path: sum(
            bool(cell.get("outputs")) and "nbval-ignore-output" not in cell.metadata.get("tags", [])
            for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "code" and cell.execution_count is not None
        )
        for path in notebooks()
    }
    total = sum(counts.values())
    if total < COMPARED_FLOOR:
        raise Failure(
            f"Only {total} stored outputs can be compared; the floor is {COMPARED_FLOOR}: run `make notebooks`."
        )

    def nbval(path: Path) -> tuple[Path, int, str]:
        command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
        command += ["--nbval-cell-timeout", str(LIMIT["ci"]), "--nbval-current-env", str(path)]
        command += ["--nbval-sanitize-with", str(ROOT / "tests" / "book" / "sanitize.cfg"), "-p", "pytest_tolerance"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RLN_PROFILE": "ci"}
        paths = [str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]  # where the plugin is
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return path, done.returncode, done.stdout

    failed = []
    with ThreadPoolExecutor(2) as pool:
        for path, code, output in pool.map(nbval, counts):
            print(f"  {path.name}: {counts[path]} outputs compared, {'FAILED' if code else 'equal'}", flush=True)
            if code:
                failed.append(f"{path.name}:\n{re.sub(r'data:image[^ ]*', 'data:image...', output)[-6000:]}")
    if failed:
        raise Failure("\n".join([*failed, f"{len(failed)} notebooks differ from their stored outputs."]))
    print(f"{total} outputs of {len(counts)} notebooks compared.\n{total} passed, 0 failed", flush=True)


def repository() -> str | None:
    """The book's address on GitHub: RLN_REPOSITORY, else the git remote ``origin``; None where there is neither.

    Raises Failure for an RLN_REPOSITORY that is no such address.
    """
    pattern = r"(?:https://github\.com/|git@github\.com:)([\w.-]+/[\w.-]+?)(?:\.git)?/?"
    given = os.environ.get("RLN_REPOSITORY", "").strip()
    git = ["git", "-C", str(ROOT), "config", "--get", "remote.origin.url"]
    address = given or subprocess.run(git, capture_output=True, text=True).stdout.strip()
    found = re.fullmatch(pattern, address)
    if given and not found:
        raise Failure(f"RLN_REPOSITORY must be an address such as https://github.com/owner/name, not {given!r}.")
    return f"https://github.com/{found[1]}" if found else None


def addressed(notebook: nbformat.NotebookNode, address: str | None) -> nbformat.NotebookNode:
    """The notebook with the address in its first code cell, which fetches the library from there if need be."""
    for cell in notebook.cells:
        if "bootstrap" in cell.metadata.get("tags", []):
            cell.source = bootstrap(address or "")
    return notebook


def configured(text: str, address: str | None) -> str:
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


def archive() -> Path:
    """Pack the rendered book, the executed notebooks, data, weights, lock file and their checksums into one file."""
    copies = run("ci")
    return packed(render(copies).parent, copies)


def packed(html: Path, copies: Path) -> Path:
    """The archive of a rendered book and the notebooks that it was rendered from."""
    name = f"rlnlib-book-{__version__}"
    stage, target = BUILD / "archive" / name, BUILD / f"{name}.zip"
    shutil.rmtree(stage.parent, ignore_errors=True)
    shutil.copytree(html, stage / "html", ignore=shutil.ignore_patterns(".buildinfo", ".doctrees"))
    for folder in ("data", "rlnlib", "notebooks", "benchmarks"):
        shutil.copytree(ROOT / folder, stage / folder, ignore=shutil.ignore_patterns("generated", "__pycache__", ".*"))
    for path in notebooks():
        copy = nbformat.read(copies / path.name, as_version=4)
        nbformat.write(addressed(copy, repository()), stage / "notebooks" / path.name)
    for file in ("constraints.txt", "pyproject.toml", "environment.yml", "README.md", "LICENSE", "CITATION.cff"):
        shutil.copy(ROOT / file, stage)
    files = sorted(p for p in stage.rglob("*") if p.is_file())
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(stage)}\n" for p in files]
    (stage / "SHA256SUMS").write_text("".join(sums))  # check with: sha256sum -c SHA256SUMS
    partial = shutil.make_archive(str(BUILD / "archive" / "partial"), "zip", stage.parent, name)
    os.replace(partial, target)
    shutil.rmtree(stage.parent)
    print(f"{len(files)} files, {target.stat().st_size / 1e6:.0f} MB.", flush=True)
    return target


def render(copies: Path) -> Path:
    """Build the HTML from the executed copies; any warning is an error. Returns index.html."""
    stage = BUILD / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(ROOT / "book", stage / "book", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (stage / "notebooks").mkdir()
    for path in notebooks():
        copy = addressed(nbformat.read(copies / path.name, as_version=4), repository())
        nbformat.write(anchored(copy), stage / "notebooks" / path.name)
    (stage / "_config.yml").write_text(configured((ROOT / "_config.yml").read_text(), repository()))
    for name in ("_toc.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, stage)
    (stage / "book" / "parameters.md").write_text(parameter_page())
    (stage / "book" / "benchmarks.md").write_text(benchmarks_page())
    ledger = claims.ledger(ROOT / "book" / "claims.yml", [copies / path.name for path in notebooks()])
    (stage / "book" / "claims.md").write_text(claims_page(ledger))
    with (stage / "book" / "differences.md").open("a") as page:
        page.write(differing_claims(ledger))
    with (stage / "book" / "model_card.md").open("a") as page:
        page.write(model_card_page.tables())
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(stage)]
    command += ["--path-output", str(BUILD / "html.partial")]
    shutil.rmtree(BUILD / "html.partial", ignore_errors=True)
    print("Rendering the book.", flush=True)
    done = subprocess.run(
        [*command, "-W", "--keep-going", "-q"],
        cwd=stage,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise Failure(f"{done.stdout}\nThe book could not be rendered without warnings.")
    for page in (BUILD / "html.partial" / "_build" / "html").rglob("*.html"):
        page.write_text(THEBE.sub("", page.read_text()))
    shutil.rmtree(BUILD / "html", ignore_errors=True)
    os.replace(BUILD / "html.partial" / "_build" / "html", BUILD / "html")
    shutil.rmtree(BUILD / "html.partial")
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    pages = [contents["root"], *(chapter["file"] for part in contents["parts"] for chapter in part["chapters"])]
    if missing := [page for page in pages if not (BUILD / "html" / f"{page}.html").exists()]:
        raise Failure(f"Pages are missing from the HTML: {', '.join(missing)}.")
    print(f"{len(pages)} pages rendered.", flush=True)
    return BUILD / "html" / "index.html"


def anchored(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with a place to link to before each cell that measures a claim."""
    cells = []
    for cell in notebook.cells:
        if any(claims.MEDIA_TYPE in output.get("data", {}) for output in cell.get("outputs", [])):
            cells.append(nbformat.v4.new_markdown_cell(f'<a id="cell-{cell.metadata.tags[0]}"></a>'))
        cells.append(cell)
    notebook.cells = cells
    return notebook


def benchmarks_page() -> str:
    """The recorded benchmarks as a page. Raises Failure for a record that contradicts itself."""
    found = benchmark_page.records(ROOT / "benchmarks" / "results")
    if faults := [fault for name, record in found.items() for fault in benchmark_page.faults(name, record)]:
        raise Failure("\n".join(faults))
    return benchmark_page.page(found, (ROOT / "book" / "benchmarks_introduction.md").read_text())


def claims_page(entries: list[claims.Entry]) -> str:
    """The ledger of the paper's claims as a page: what was published, what we measured, and the derived status."""
    counts = ", ".join(f"{sum(e.status == s for e in entries)} {s}" for s in claims.STATUSES)
    text = (ROOT / "book" / "claims_introduction.md").read_text()
    return f"{text}\nOf {len(entries)} claims: {counts}.\n\n{claims_table(entries)}"


def differing_claims(entries: list[claims.Entry]) -> str:
    """The claims that we measured otherwise than the paper, for the page on differences."""
    differing = [entry for entry in entries if entry.status in ("differs", "not reproduced")]
    text = "\n## Claims that came out otherwise\n\n"
    return text + (claims_table(differing) if differing else "None of those measured so far.\n")


def claims_table(entries: list[claims.Entry]) -> str:
    """Claims as a table: the paper's value, ours and on what it was measured, a link to the cell, the status."""
    text = "| claim | paper | ours | measured on | status |\n|---|---|---|---|---|\n"

    def shown(value, unit: str) -> str:
        return ("holds" if value else "does not hold") if isinstance(value, bool) else f"{value:,g} {unit}"

    for entry in entries:
        ours = "" if entry.value is None else shown(entry.value, entry.unit)
        if entry.where:
            notebook, tag = entry.where
            ours += f' (<a href="../notebooks/{notebook}.html#cell-{tag}">cell</a>)'
        claim = f"{entry.quote} (section {entry.section})"  # in words: a bare (4) reads as an equation
        published = shown(entry.published, entry.unit)
        text += f"| {claim} | {published} | {ours} | {entry.conditions} | {entry.status} |\n"
    return text


def parameter_page() -> str:
    """The table of every notebook's parameters, by profile, as a page of the book."""
    text = (ROOT / "book" / "rerun.md").read_text()
    profiles = {name: yaml.safe_load((PROFILES / f"{name}.yml").read_text()) for name in ("ci", "laptop", "paper")}
    for path in notebooks():
        title = next(c.source for c in nbformat.read(path, as_version=4).cells).splitlines()[0].lstrip("# ")
        text += f"\n## {title}\n\n`notebooks/{path.name}`\n\n"
        text += "| parameter | type | ci | laptop | paper | may be | meaning |\n"
        text += "|---|---|---|---|---|---|---|\n"
        for name, entry in declared(path).items():
            values = " | ".join(str(p.get(name, entry["default"])) for p in profiles.values())
            text += f"| `{name}` | {entry['inferred_type_name']} | {values} | {allowed(name)} | {entry['help']} |\n"
    return text


def allowed(name: str) -> str:
    """What a parameter may be, in words; empty where any value of its type will do."""
    rule = ALLOWED.get(name, ())
    words = [f"{part:g}" if isinstance(part, (int, float)) else str(part) for part in rule]
    return (", " if rule and isinstance(rule[0], str) else " to ").join(words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("book", "run", "store", "compare", "archive"))
    parser.add_argument("--profile", default="ci")
    options = parser.parse_args()
    try:
        if options.command in ("book", "run"):
            copies = run(options.profile)
            print(f"The book: {render(copies)}" if options.command == "book" else f"The copies: {copies}")
        elif options.command == "archive":
            print(f"The archive: {archive()}")
        else:
            {"store": store, "compare": compare}[options.command]()
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
