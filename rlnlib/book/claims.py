"""claim + measurement -> status: what of the paper holds, decided by a program from what the notebooks recorded.

``book/claims.yml`` lists the claims. A notebook records a measurement with :func:`record` in the cell that makes it;
:func:`ledger` reads the executed notebooks and derives each status. Nobody writes a status or a value of ours by hand.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import yaml
from IPython.display import display

#: The media type under which a measurement stands among a cell's outputs.
MEDIA_TYPE = "application/vnd.rlnlib.claim+json"
STATUSES = ("reproduced", "differs", "not reproduced", "not tried")


def record(claim: str, value: float | bool, conditions: str) -> None:
    """Record what a notebook measured for a claim, and show it as a line.

    ``value`` is a number in the claim's unit, or whether it holds. ``conditions`` says in a few words what was
    measured on ("paper" where it is what the paper used).
    Raises ValueError for a value that is no finite number, or conditions that are empty.
    """
    if not isinstance(value, bool):
        value = float(value)
        if not math.isfinite(value):
            raise ValueError(f"The measurement for {claim!r} is {value}: a claim is measured by a finite number.")
    if not conditions.strip():
        raise ValueError(f"Say on what the measurement for {claim!r} was made.")
    measurement = {"claim": claim, "value": value, "conditions": conditions}
    shown = ("holds" if value else "does not hold") if isinstance(value, bool) else f"{value:g}"
    text = f"*Measured for the claim* `{claim}`: {shown} ({conditions})."
    display({MEDIA_TYPE: measurement, "text/markdown": text, "text/plain": text}, raw=True)


@dataclass(frozen=True)
class Entry:
    """A claim with its measurement, if there is one. ``where`` is (notebook stem, tag of the cell)."""

    id: str
    quote: str
    section: str
    published: float | bool
    tolerance: float
    unit: str
    needs_paper_conditions: bool
    where: tuple[str, str] | None = None
    value: float | bool | None = None
    conditions: str = ""

    @property
    def status(self) -> str:
        """``not tried`` without a measurement under the conditions that the claim needs; for a number, ``reproduced``
        within the tolerance and ``differs`` beyond it; for a statement, ``reproduced`` or ``not reproduced``."""
        if self.value is None or (self.needs_paper_conditions and self.conditions != "paper"):
            return "not tried"
        if isinstance(self.published, bool):
            return "reproduced" if self.value == self.published else "not reproduced"
        return "reproduced" if abs(self.value - self.published) <= self.tolerance else "differs"


def load_claims(path) -> list[Entry]:
    """The claims of a ledger file, without measurements. Raises ValueError for an entry that lacks something."""
    entries = []
    for number, item in enumerate(yaml.safe_load(Path(path).read_text())):
        missing = {"id", "quote", "section", "published"} - set(item)
        if missing:
            raise ValueError(f"Claim {item.get('id', number)!r} of {path} lacks {', '.join(sorted(missing))}.")
        exact = isinstance(item["published"], bool)
        entries.append(
            Entry(
                id=item["id"],
                quote=item["quote"],
                section=str(item["section"]),
                published=item["published"] if exact else float(item["published"]),
                tolerance=0.0 if exact else float(item["tolerance"]),
                unit=item.get("unit", ""),
                needs_paper_conditions=item.get("needs_paper_conditions", False),
            )
        )
    ids = [entry.id for entry in entries]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{path} lists a claim twice: {sorted({i for i in ids if ids.count(i) > 1})}.")
    return entries


def measurements(notebook) -> list[tuple[str, dict]]:
    """The measurements in an executed notebook: the tag of the cell and what it recorded."""
    found = []
    for cell in json.loads(Path(notebook).read_text())["cells"]:
        for output in cell.get("outputs", []):
            if MEDIA_TYPE in output.get("data", {}):
                tags = cell["metadata"].get("tags", [])
                found.append((tags[0] if tags else "", output["data"][MEDIA_TYPE]))
    return found


def ledger(path, notebooks) -> list[Entry]:
    """The claims of ``path`` with what the executed ``notebooks`` measured.

    Raises ValueError for a measurement of a claim that is not listed, twice measured, or in a cell without a tag.
    """
    entries = {entry.id: entry for entry in load_claims(path)}
    for notebook in map(Path, notebooks):
        for tag, found in measurements(notebook):
            entry = entries.get(found["claim"])
            if entry is None:
                raise ValueError(f"{notebook.name} measures {found['claim']!r}, which {path} does not list.")
            if entry.value is not None:
                raise ValueError(
                    f"{entry.id!r} is measured in {entry.where[0] if entry.where else ''} and {notebook.name}."
                )
            if not tag:
                raise ValueError(f"{notebook.name} measures {entry.id!r} in a cell without a tag to link to.")
            entries[entry.id] = Entry(
                **{
                    **entry.__dict__,
                    "where": (notebook.stem, tag),
                    "value": found["value"],
                    "conditions": found["conditions"],
                }
            )
    return list(entries.values())
