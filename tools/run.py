"""Run the notebooks with papermill, keep the executed copies, store their outputs, and compare outputs with nbval.

A copy is kept while its key holds: a hash of the notebook's source, its parameters, the library, the data and the
pinned packages. Copies are written in full before they get their name.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import TextIO

import nbformat
import numpy as np
import papermill
import torch

import rlnlib
from project import BUILD, ROOT, Failure, notebooks, read_yaml, repository
from rlnlib.book.notebook import bootstrap
from rlnlib.fast.environment import ENVIRONMENT
from rlnlib.provenance import current_commit

PROFILES = ROOT / "notebooks" / "profiles"
#: Seconds that one notebook may take by the clock. The ci profile aims at 30; the others may train for hours.
LIMIT = {"ci": 300}
#: Share of a notebook's code cells that `compare` must at least compare, so that one which compares nothing fails.
LEAST_COMPARED = 1 / 3
#: Notebooks run in copies of this process, which need not import papermill again: that takes more than a second.
COPIES = multiprocessing.get_context("fork")


def parameters_of(path: Path) -> dict:
    """The parameters of a notebook as papermill reads them."""
    return _parameters(path, path.stat().st_mtime_ns)


@functools.cache
def _parameters(path: Path, changed: int) -> dict:
    return papermill.inspect_notebook(str(path))


def profile_values(path: Path, profile: str) -> dict:
    """What a profile sets for a notebook. Raises Failure for a name that no notebook has as a parameter."""
    file = PROFILES / f"{profile}.yml"
    if not file.exists():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yml")))
        raise Failure(f"There is no profile {profile!r}; there are {known}.")
    values = read_yaml(file)
    known = {name for notebook in notebooks() for name in parameters_of(notebook)}
    if unknown := sorted(map(str, set(values) - known)):
        raise Failure(f"{file.name} sets {', '.join(unknown)}, which no notebook has as a parameter.")
    return {name: value for name, value in values.items() if name in parameters_of(path)}


def key(path: Path, values: dict) -> str:
    """Hash all that an executed copy depends on; outputs do not count, nor the cell that fetches the library."""
    content = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for cell in nbformat.read(path, as_version=4).cells:
        if "bootstrap" not in cell.metadata.get("tags", []):
            content.update(f"{cell.cell_type}\0{cell.source}\0{cell.metadata.get('tags', [])}\0".encode())
    data = [p for p in (ROOT / "data").rglob("*") if p.is_file() and "generated" not in p.parts]
    data += (ROOT / "benchmarks" / "results").glob("*.json")
    for file in sorted([*(ROOT / "rlnlib").rglob("*.py"), *data, ROOT / "constraints.txt"]):
        content.update(str(file.relative_to(ROOT)).encode() + hashlib.sha256(file.read_bytes()).digest())
    return content.hexdigest()


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def read_stamp(path: Path) -> dict:
    """What :func:`run_one` recorded in a copy, or nothing if there is no complete copy."""
    try:
        return nbformat.read(path, as_version=4).metadata.get("rlnlib", {})
    except (OSError, ValueError, nbformat.reader.NotJSONError):
        return {}


def run(profile: str, out: Path | None = None) -> Path:
    """Run all notebooks whose copies are out of date, the last ones first; returns the folder of the copies."""
    out = out or BUILD / profile
    out.mkdir(parents=True, exist_ok=True)
    wanted = [(path, profile_values(path, profile)) for path in notebooks()]
    stale = [(p, v) for p, v in wanted if read_stamp(out / p.name).get("key") != key(p, v)]
    print(f"{len(wanted)} notebooks, {len(stale)} to run at the {profile} profile.", flush=True)
    if len(stale) > 1:
        compile_loops()
    jobs = [(path, values, out) for path, values in reversed(stale)]  # from the last, as the first ones are short
    if errors := [error for error in run_each(jobs, profile) if error]:
        raise Failure("\n".join(errors))
    executed = {p.name: read_stamp(out / p.name)["cells"] for p, _ in wanted}
    if short := [p.name for p, _ in wanted if executed[p.name] != len(code_cells(p))]:
        raise Failure(f"Not all cells were executed in {', '.join(short)}.")
    print(f"{sum(executed.values())} cells executed in the {len(wanted)} copies.", flush=True)
    return out


def compile_loops() -> None:
    """Let numba compile the loops of a solve, where they are not yet: one precision in each of two processes.

    The first two notebooks, which begin together, would each compile both.
    """
    cell = np.indices((8, 8, 8))[0] < 4
    compilers = [
        COPIES.Process(target=rlnlib.solve_strain, args=(cell, 10.0), kwargs={"dtype": dtype, "rtol": 1e-3})
        for dtype in (torch.float32, torch.float64)
    ]
    for compiler in compilers:
        compiler.start()
    for compiler in compilers:
        compiler.join()


def environment(profile: str) -> dict[str, str]:
    """The environment of a notebook's process: text is UTF-8, and at the ci profile two notebooks share two cores."""
    found = {**ENVIRONMENT, **os.environ, "RLN_PROFILE": profile, "PYTHONUTF8": "1"}
    if profile == "ci":
        found.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    return found


def execute(path: Path, partial: Path, values: dict, profile: str, output: TextIO) -> None:
    """Run one notebook with papermill in this process, a copy made for it; what is printed goes to ``output``."""
    os.setsid()  # an interrupt in the terminal is for the first process
    sys.stdout = sys.stderr = output
    for stream in (1, 2):  # the kernel's
        os.dup2(output.fileno(), stream)
    os.environ.update(environment(profile))
    papermill.execute_notebook(
        path,
        partial,
        values,
        kernel_name="python3",
        progress_bar=False,
        request_save_on_cell_execute=False,
        cwd=path.parent,
    )


class Run:
    """A notebook that runs in a process of its own."""

    def __init__(self, path: Path, values: dict, out: Path, profile: str):
        self.path, self.values, self.out, self.profile = path, values, out, profile
        self.partial = out / f"{path.stem}.partial.ipynb"
        self.output = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (closed at the end)
        self.started, self.limit = time.monotonic(), LIMIT.get(profile, math.inf)
        arguments = (path, self.partial, values, profile, self.output)
        self.process = COPIES.Process(target=execute, args=arguments, daemon=True)
        self.process.start()

    def left(self) -> float:
        """Seconds until its limit; 0 where it has ended."""
        return max(0.0, self.started + self.limit - time.monotonic()) if self.process.is_alive() else 0.0

    def end(self) -> str | None:
        """Keep the copy; returns None, or what went wrong."""
        late, seconds = self.process.is_alive(), time.monotonic() - self.started
        self.process.kill()  # its kernel sees that it is gone, and ends
        self.process.join()
        with self.output as output:
            output.seek(0)
            printed = output.read()
        name = self.path.name
        if late:
            return f"{name}: stopped after {self.limit} s, the limit of the {self.profile} profile."
        if self.process.exitcode:
            print(f"  {name}: FAILED after {seconds:.0f} s", flush=True)
            return f"{name}: {find_error(self.partial) or printed.strip()[-2000:]}"
        stamp(self.partial, self.path, self.values, self.profile, seconds)
        os.replace(self.partial, self.out / name)
        print(f"  {name}: {seconds:.0f} s", flush=True)
        return None


def run_each(jobs: list[tuple[Path, dict, Path]], profile: str) -> list[str | None]:
    """Run notebooks with these values into these folders, two at a time; what went wrong with each, or None."""
    waiting, running, errors = list(enumerate(jobs)), {}, [None] * len(jobs)
    while waiting or running:
        while waiting and len(running) < 2:
            number, job = waiting.pop(0)
            running[number] = Run(*job, profile)
        left = min(one.left() for one in running.values())
        wait([one.process.sentinel for one in running.values()], left if left < math.inf else None)
        for number in [number for number, one in running.items() if not one.left()]:
            errors[number] = running.pop(number).end()
    return errors


def find_error(path: Path) -> str | None:
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


def stamp(partial: Path, source: Path, values: dict, profile: str, seconds: float) -> None:
    """Record in an executed copy what made it, and say so in a line under its title."""
    notebook = nbformat.read(partial, as_version=4)
    # The line under the title names the values that papermill put into a cell of its own.
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
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
    line += f"{made['cells']} notebook cells. Parameters: {shown}."
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(f":::{{admonition}} Provenance\n:class: note\n{line}\n:::"))
    nbformat.write(notebook, partial)


def add_address(notebook: nbformat.NotebookNode, address: str | None) -> nbformat.NotebookNode:
    """Write the address into the notebook's first code cell, which fetches the library from there if need be."""
    for cell in notebook.cells:
        if "bootstrap" in cell.metadata.get("tags", []):
            cell.source = bootstrap(address or "")
    return notebook


def unaddressed() -> list[str]:
    """The stored notebooks, which Colab opens, that do not name the book's address; none for a book without one."""
    address = repository()
    if not address:
        return []
    first = {p.name: [c for c in code_cells(p) if "bootstrap" in c.metadata.get("tags", [])] for p in notebooks()}
    return [name for name, cells in first.items() if any(cell.source != bootstrap(address) for cell in cells)]


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
        nbformat.write(add_address(source, repository()), partial)
        os.replace(partial, path)
    print("Stored the outputs in notebooks/.", flush=True)


def count_comparable(path: Path) -> int:
    """How many cells of a stored notebook have outputs that nbval compares."""
    return sum(
        bool(cell.get("outputs")) and "nbval-ignore-output" not in cell.metadata.get("tags", [])
        for cell in code_cells(path)
        if cell.execution_count is not None
    )


def compare(again: bool = False) -> None:
    """Compare the executed copies with the stored outputs by nbval, numbers as `pytest_tolerance` says.

    The copies are those of the book, run where they are out of date; with ``again`` all notebooks are run for this.
    Raises Failure for outputs that differ, and for a notebook of which less than LEAST_COMPARED is compared.
    """
    paths = notebooks()
    counts = {path: count_comparable(path) for path in paths}
    if few := [path.name for path in paths if counts[path] < LEAST_COMPARED * len(code_cells(path))]:
        raise Failure(f"Too few stored outputs to compare in {', '.join(few)}: run `make notebooks`.")
    if again:
        shutil.rmtree(BUILD / "again", ignore_errors=True)
    copies = run("ci", BUILD / "again" if again else None)
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", "-p", "pytest_tolerance"]
    command += ["--rootdir", str(paths[0].parent), "--executed", str(copies), "--nbval-current-env", *map(str, paths)]
    command += ["--nbval-sanitize-with", str(ROOT / "tests" / "book" / "sanitize.cfg")]
    place = [str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]  # where the plugin is
    place = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(filter(None, place))}
    done = subprocess.run(command, env=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    for path in paths:
        print(f"  {path.name}: {counts[path]} outputs compared", flush=True)
    if done.returncode:
        differ = sorted(set(re.findall(r"^(?:FAILED|ERROR) (?:\S*/)?([^/\s]+\.ipynb)::", done.stdout, re.MULTILINE)))
        shown = re.sub(r"data:image[^ ]*", "data:image...", done.stdout)[-20000:]
        raise Failure(f"{shown}\n{len(differ)} notebooks differ from their stored outputs: {', '.join(differ)}.")
    print(f"{sum(counts.values())} outputs of {len(counts)} notebooks compared: all equal.", flush=True)
