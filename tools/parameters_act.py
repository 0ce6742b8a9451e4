"""Show that each parameter of each notebook acts: change it alone, run the notebook, see which outputs change.

    python tools/parameters_act.py            every notebook whose record is out of date
    python tools/parameters_act.py 04 07      those whose names begin so, in any case

A notebook runs twice with the small values below, which shows what differs by itself (timings), and then once for each
parameter with its other value. Pictures, printed text and measured values count; captions, which repeat parameters, do
not. ``run_folder`` acts by what is in the folder afterwards. ``device`` is left out: most machines have but one.
The record ``tests/book/parameters_act.json`` holds the cells that changed and a hash of the notebook's code.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np

import build
from rlnlib.book import claims

RECORD = build.ROOT / "tests" / "book" / "parameters_act.json"
#: A small value of each parameter, and another one.
VALUES = {
    "cell_size": (10, 11),
    "training_size": (12, 14),
    "sample_size": (12, 14),
    "grid_size": (3, 4),
    "grain_size": (3, 5),
    "largest_grain": (5, 8),
    "stiff_fraction": (0.4, 0.6),
    "contrast": (10.0, 50.0),
    "largest_contrast": (10.0, 30.0),
    "conductivity": (20.0, 5.0),
    "reference_young": (20.0, 5.0),
    "reference_poisson": (0.25, 0.1),
    "discretization": ("rotated", "hex8"),
    "refinement": (2, 3),
    "n_points": (32, 40),
    "n_statistics": (2, 3),
    "n_compared": (2, 3),
    "n_passes": (20, 30),
    "n_descents": (20, 30),
    "n_cells": (10, 20),
    "repeats": (5, 2),
    "n_train": (4, 6),
    "n_validation": (2, 3),
    "n_test": (4, 6),
    "epochs": (2, 3),
    "batch_size": (2, 4),
    "seed": (0, 1),
    "cell_file": ("", "cell.npy"),
    "run_folder": ("", "runs"),
}


def source_hash(path: Path) -> str:
    """Of the code of a notebook."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    code = [cell.source for cell in cells if "bootstrap" not in cell.metadata.get("tags", [])]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def shown(path: Path) -> dict[str, str]:
    """What each cell of an executed copy shows, by the cell's id: pictures, printed text and measured values."""
    found = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "provenance" not in cell.metadata.get("tags", []):
            parts = []
            for output in cell.outputs:
                data = output.get("data", {})
                parts += [output.get("text", "")] + re.findall(r"data:image[^\"]*", str(data.get("text/html", "")))
                parts.append(str(data.get(claims.MEDIA_TYPE, {}).get("value", "")))
            found[cell.id] = "\0".join(parts)
    return found


def changed(before: dict[str, str], again: dict[str, str], after: dict[str, str]) -> list[str]:
    """The cells that show something else, without those that do so by themselves."""
    return [cell for cell, text in before.items() if text == again[cell] != after.get(cell)]


def names_of(path: Path) -> list[str]:
    """The parameters of a notebook that are shown to act."""
    left_out = ("device", "repeats") if path.stem == "16_what_it_costs" else ("device",)
    return [name for name in build.declared(path) if name not in left_out]


def runs(path: Path) -> dict[str, dict]:
    """The values of each run: "", "again" and one for each parameter."""
    names = names_of(path)
    if unknown := [name for name in names if name not in VALUES]:
        raise build.Failure(f"{path.name}: give {', '.join(unknown)} two values in tools/parameters_act.py.")
    small = {name: VALUES[name][0] for name in names}
    return {"": small, "again": small, **{name: {**small, name: VALUES[name][1]} for name in names}}


def examine(path: Path) -> dict:
    """Run a notebook with every parameter changed; returns its part of the record."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        stiff = np.zeros((10, 10, 10), dtype=bool)
        stiff[:5] = True
        np.save(folder / "cell.npy", stiff)

        def run(job):
            name, values = job
            (folder / f"copy-{name}").mkdir()
            values = {n: str(folder / v) if n in ("cell_file", "run_folder") and v else v for n, v in values.items()}
            error = build.run_one(path, values, "ci", folder / f"copy-{name}")
            if error:
                raise build.Failure(f"with {name or 'the small values'}: {error}")
            return name, shown(folder / f"copy-{name}" / path.name)

        with ThreadPoolExecutor(2) as pool:
            seen = dict(pool.map(run, runs(path).items()))
        acts = {name: changed(seen[""], seen["again"], after) for name, after in seen.items() if name in VALUES}
        if "run_folder" in acts:
            acts["run_folder"] = sorted(p.name for p in (folder / "runs").glob("*"))
    return {"source": source_hash(path), "changed by": acts}


def main(names: list[str]) -> int:
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    wanted = [path for path in build.notebooks() if not names or path.name.startswith(tuple(names))]
    stale = [p for p in wanted if names or record.get(p.stem, {}).get("source") != source_hash(p)]
    for path in stale:
        try:
            record[path.stem] = examine(path)
        except build.Failure as failure:
            print(f"error: {failure}", file=sys.stderr)
            return 1
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        silent = [name for name, cells in record[path.stem]["changed by"].items() if not cells]
        print(f"{path.name}: " + (f"nothing changed by {', '.join(silent)}" if silent else "every parameter acts"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
