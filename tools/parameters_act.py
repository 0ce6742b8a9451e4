"""Show that each parameter of each notebook acts: change it alone, run the notebook, see which outputs change.

    python tools/parameters_act.py            every notebook whose record is out of date
    python tools/parameters_act.py 04 07      those whose names begin so, in any case

A notebook runs twice with the small values of rlnlib.book.parameters, which shows what differs by itself (timings), and
then once for each parameter with its other value. Pictures, printed text and measured values count; captions, which
repeat parameters, do not. ``run_folder`` acts by what is in the folder afterwards. ``device`` is left out: most
machines have but one.
The record ``tests/book/parameters_act.json`` holds the cells that changed and a hash of the notebook's code.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np

from project import ROOT, Failure, notebooks, one_at_a_time
from rlnlib.book import claims
from rlnlib.book.parameters import PARAMETERS
from run import code_cells, parameters_of, run_each

RECORD = ROOT / "tests" / "book" / "parameters_act.json"


def source_hash(path: Path) -> str:
    """Of the code of a notebook."""
    code = [cell.source for cell in code_cells(path) if "bootstrap" not in cell.metadata.get("tags", [])]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def shown(path: Path) -> dict[str, str]:
    """What each cell of an executed copy shows, by the cell's id: pictures, text, tables and measured values."""
    found = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "provenance" not in cell.metadata.get("tags", []):
            parts = []
            for output in cell.outputs:
                data = output.get("data", {})
                page = str(data.get("text/html", ""))
                parts += [output.get("text", "")] + re.findall(r"data:image[^\"]*|<tbody>.*?</tbody>", page)
                parts.append(str(data.get(claims.MEDIA_TYPE, {}).get("value", "")))
            found[cell.id] = "\0".join(parts)
    return found


def changed(before: dict[str, str], again: dict[str, str], after: dict[str, str]) -> list[str]:
    """The cells that show something else, without those that do so by themselves."""
    return [cell for cell, text in before.items() if text == again[cell] != after.get(cell)]


def names_of(path: Path) -> list[str]:
    """The parameters of a notebook that are shown to act."""
    left_out = ("device", "repeats") if path.stem == "16_what_it_costs" else ("device",)
    return [name for name in parameters_of(path) if name not in left_out]


def runs(path: Path) -> dict[str, dict]:
    """The values of each run: "", "again" and one for each parameter."""
    names = names_of(path)
    if unknown := [name for name in names if name not in PARAMETERS]:
        raise Failure(f"{path.name}: give {', '.join(unknown)} a line in rlnlib/book/parameters.py.")
    small = {name: PARAMETERS[name].small for name in names}
    return {"": small, "again": small, **{name: {**small, name: PARAMETERS[name].other} for name in names}}


def examine(path: Path) -> dict:
    """Run a notebook with every parameter changed; returns its part of the record."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        stiff = np.zeros((10, 10, 10), dtype=bool)
        stiff[:5] = True
        np.save(folder / "cell.npy", stiff)

        jobs = {}
        for name, values in runs(path).items():
            (folder / f"copy-{name}").mkdir()
            values = {n: str(folder / v) if n in ("cell_file", "run_folder") and v else v for n, v in values.items()}
            jobs[name] = (path, values, folder / f"copy-{name}")
        for name, error in zip(jobs, run_each(list(jobs.values()), "ci"), strict=True):
            if error:
                raise Failure(f"with {name or 'the small values'}: {error}")
        seen = {name: shown(out / path.name) for name, (_, _, out) in jobs.items()}
        acts = {name: changed(seen[""], seen["again"], after) for name, after in seen.items() if name in PARAMETERS}
        if "run_folder" in acts:
            acts["run_folder"] = sorted(p.name for p in (folder / "runs").glob("*"))
    return {"source": source_hash(path), "changed by": acts}


def examine_stale(names: list[str]) -> None:
    """Bring the record up to date, notebook by notebook, and say which parameters change nothing."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    wanted = [path for path in notebooks() if not names or path.name.startswith(tuple(names))]
    for path in (p for p in wanted if names or record.get(p.stem, {}).get("source") != source_hash(p)):
        record[path.stem] = examine(path)
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        silent = [name for name, cells in record[path.stem]["changed by"].items() if not cells]
        print(f"{path.name}: " + (f"nothing changed by {', '.join(silent)}" if silent else "every parameter acts"))


def main(names: list[str]) -> int:
    try:
        with one_at_a_time():
            examine_stale(names)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
