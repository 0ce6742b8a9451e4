"""The front page: numbers from the records in place of ``{{ name }}``, a map of the chapters, and the picture.

The text is book/intro.md. Nothing on the page is typed by hand that a record, a notebook or the table of contents says.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
from matplotlib.figure import Figure

import rlnlib
from project import ROOT, Failure, notebooks, read_yaml
from rlnlib import weight_files
from rlnlib.book import benchmarks, claims, figures
from rlnlib.rln import KINDS

CONTRASTS = (10.0, 50.0)
PICTURED = 50.0  # contrast of the picture


def make(folder: Path) -> None:
    """Complete the front page in a copy of the folder book/, and put its picture there."""
    introduction = folder / "intro.md"
    introduction.write_text(page(introduction.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "static" / "front.png").write_bytes(figures.png(picture()))


def record(path: str) -> dict:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def numbers() -> dict[str, str]:
    """What ``{{ name }}`` stands for: every number of the front page, as text."""
    found: dict[str, str] = {}
    large = [f"{kind}-{contrast:g}-31" for kind in (*KINDS, "rln-further") for contrast in CONTRASTS]
    for name in ("fln-10", *large):
        test = record(f"data/pretrained/{name}.test.json")
        error = np.std(test["mase"], ddof=1) / len(test["mase"]) ** 0.5
        found[name] = f"{np.mean(test['mase']):.2f}"
        found[f"{name} with error"] = f"{np.mean(test['mase']):.2f} ± {error:.3f}"
        found[f"{name} cells"] = f"{len(test['mase']):,}"
        found[f"{name} hours"] = f"{test['minutes'] / 60:.0f}"
        found[f"{name} minutes"] = f"{test['minutes']:.0f}"
    for row in record("data/results/first_order_regression.json")["rows"]:
        best = list(row["first_order"].values())[-1]
        found[f"kernel-{row['contrast']:g}"] = f"{best['mean']:.1f}"
    elements = record("data/results/finite_element.json")["against_bbar_on_cells_like_the_papers"]
    for (kind, contrast), (mean, _) in claims.table_1().items():
        found[f"paper-{kind}-{contrast}"] = f"{mean:.2f}"
    for contrast in CONTRASTS:
        found[f"hex8-{contrast:g}"] = f"{elements[f'{contrast:g}']['hex8']['mean']:.1f}"
        for name, time in times(contrast).items():
            found[f"{name}, {contrast:g}"] = f"{time:.0f}"
    for row in record("data/results/small_then_large.json")["rows"]:
        found[f"{row['trained_on']} on {row['size']}, {row['contrast']:g}"] = f"{row['mean']:.1f}"
    found["picture"], found["picture contrast"] = f"{pictured()[-1]:.1f}", f"{PICTURED:g}"
    return found


def times(contrast: float) -> dict[str, float]:
    """Milliseconds a cell of 31^3, cells together: the RLN's five passes, and the others until they have its error."""
    network, reached = [], {"fixed point": [], "conjugate gradients": []}
    for row in benchmarks.derive(record("benchmarks/results/time_accuracy_31.json"))["rows"]:
        if row["contrast"] == contrast and row["mode"] == "together":
            pairs = list(zip(row["seconds_a_cell"], row["mase_percent"], strict=True))
            if row["method"] == "RLN":
                network.append(pairs[-1])
            elif row["method"] in reached:
                reached[row["method"]] += pairs
    seconds, wanted = min(network)  # in the faster precision
    others = {name: 1000 * min(s for s, error in pairs if error <= wanted) for name, pairs in reached.items()}
    return {"RLN": 1000 * seconds, **others}


def page(text: str) -> str:
    """The front page with its numbers and its map. Raises Failure for a name that stands for nothing."""
    known = {**numbers(), "map": chapter_map()}
    if unknown := sorted({name for name in re.findall(r"\{\{ (.+?) \}\}", text) if name not in known}):
        raise Failure(f"book/intro.md names {', '.join(unknown)}: tools/front_page.py knows {', '.join(known)}.")
    return re.sub(r"\{\{ (.+?) \}\}", lambda found: known[found[1]], text)


def chapter_map() -> str:
    """The chapters by part, each with its number, its title as a link, and what it asks or shows."""
    paths, lines, number = {path.stem: path for path in notebooks()}, [], 0
    for part in read_yaml(ROOT / "_toc.yml")["parts"]:
        stems = [Path(c["file"]).stem for c in part["chapters"] if c["file"].startswith("notebooks/")]
        if stems:
            lines.append(f"\n**{part['caption']}**\n")
        for stem in stems:
            number += 1
            opening = nbformat.read(paths[stem], as_version=4).cells[0].source
            title = opening.splitlines()[0].lstrip("# ")
            lines.append(f"{number}. [{title}](../notebooks/{stem}.ipynb): {purpose(opening)}")
    return "\n".join(lines)


def purpose(opening: str) -> str:
    """The question that the first cell of a chapter asks, or the first sentence of what it shows."""
    paragraphs = [" ".join(part.split()) for part in opening.split("\n\n")]
    if paragraphs[1].endswith("?"):
        return paragraphs[1]
    shown = next(part for part in paragraphs if part.startswith("**Shows**")).removeprefix("**Shows** ")
    asked = re.search(r"The question is: \*(.+?\?)\*", shown)
    text = asked[1] if asked else re.split(r"(?<=[.?:]) ", shown)[0].rstrip(":.") + "."
    return text[0].upper() + text[1:]


@functools.cache
def pictured() -> tuple:
    """The unit cell of the picture, of 31^3 voxels; its strain; the network's strain; and its error in percent."""
    cell = rlnlib.generate_cells(1, 31, (5, 8), (0.6, 0.6), seed=2)
    strain = rlnlib.solve_strain(cell, PICTURED, rtol=1e-6).strain[:, 0]
    predicted = rlnlib.predict_strain(weight_files.load_pretrained("rln", PICTURED, 31), cell)
    return cell, strain, predicted, float(rlnlib.mase(predicted, strain)[0])


def picture() -> Figure:
    """A unit cell, its strain and the network's: the middle slice."""
    cell, strain, predicted, error = pictured()
    figures.use_style()
    figure, panels = plt.subplots(1, 3, figsize=(8.4, 2.75), dpi=144)
    figures.phases(panels[0], cell[0, :, :, 15], ("soft", f"{PICTURED:g} times as stiff"))
    for panel, field in zip(panels[1:], (strain, predicted), strict=True):
        drawn = panel.imshow(field[0, :, :, 15], vmin=0, vmax=3, origin="lower")
    titles = ("a unit cell", "its strain, solved", f"predicted: {error:.1f} % off here")
    for panel, title in zip(panels, titles, strict=True):
        panel.set(title=title, xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=panels[1:].tolist(), label="strain / mean strain", shrink=0.9, extend="max")
    return figure


if __name__ == "__main__":  # the copy that stands in the README
    (ROOT / "book" / "static" / "front.png").write_bytes(figures.png(picture()))
