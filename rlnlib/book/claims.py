"""claim + measurement -> status: what of the paper holds, decided by a program from what was recorded.

``book/claims.yml`` lists the claims, each with what would count as holding. Measurements come from three places: a
notebook records one with :func:`record` in the cell that makes it; a record in ``data/results`` carries a list
``"claims"`` of the same form; and the test errors of a shipped network are a row of Table 1. :func:`ledger` joins them,
and :attr:`Entry.status` follows from the numbers, the intervals and the conditions. Nobody writes a status or a value
of ours by hand.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml
from IPython.display import display

from rlnlib import provenance, weight_files
from rlnlib.rln import KINDS

#: The media type under which a measurement stands among a cell's outputs.
MEDIA_TYPE = "application/vnd.rlnlib.claim+json"
STATUSES = (
    "reproduced",
    "reproduced at a smaller scale",
    "better than published",
    "differs",
    "not reproduced",
    "undecided",
    "needs other hardware",
    "not tried",
)
#: Edge in voxels of the cells that the numbers of Table 1 belong to.
PAPER_SIZE = 31
#: Statuses that say that the paper's words and our numbers disagree.
OTHERWISE = ("differs", "not reproduced")

#: What a measurement may say of its conditions: edge of the cells in voxels, how many cells, how many trainings, phase
#: contrasts, where the cells are from, how the network was trained, the machine where it matters, and a few words.
CONDITIONS: dict[str, tuple[type, ...]] = {
    "size": (int,),
    "cells": (int,),
    "seeds": (int,),
    "contrasts": (list,),
    "data": (str,),
    "training": (str,),
    "machine": (str,),
    "note": (str,),
}
#: Cells like the paper's by its generator, with the ranges that chapter 8 infers; the fields of reference [22]; others.
DATA = ("design", "reference", "other")
#: The authors' weights; those that come with the project; those of a short experiment.
TRAININGS = ("released", "shipped", "experiment")


def record(claim: str, value: float | bool, conditions: str | dict, interval=None) -> None:
    """Record what a notebook measured for a claim, and show it as a line.

    Args:
        claim: an id of ``book/claims.yml``.
        value: a number in the claim's unit, or whether it holds.
        conditions: on what it was measured, by the keys of :data:`CONDITIONS`; a text alone is the ``note``.
        interval: lowest and highest value that the measurement leaves possible, where chance plays a part.

    Raises:
        ValueError: a value that is no finite number, an interval without it, or conditions that are empty or unknown.
    """
    found = checked({"claim": claim, "value": value, "interval": interval, "conditions": conditions})
    shown = ("holds" if value else "does not hold") if isinstance(value, bool) else f"{value:g}"
    if found["interval"]:
        shown += " ({:g} to {:g})".format(*found["interval"])
    text = f"*Measured for the claim* `{claim}`: {shown} ({in_words(found['conditions'])})."
    display({MEDIA_TYPE: found, "text/markdown": text, "text/plain": text}, raw=True)


def checked(measurement: dict) -> dict:
    """A measurement with all its keys: claim, value, interval (or None) and conditions. Raises ValueError as record."""
    claim, value = measurement["claim"], measurement["value"]
    if not isinstance(value, bool):
        value = float(value)
        if not math.isfinite(value):
            raise ValueError(f"The measurement for {claim!r} is {value}: a claim is measured by a finite number.")
    interval = measurement.get("interval")
    if interval is not None:
        low, high = interval = [float(bound) for bound in interval]
        if isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"The interval {interval} for {claim!r} does not contain its value {value!r}.")
    conditions = measurement["conditions"]
    if isinstance(conditions, str):
        conditions = {"note": conditions} if conditions.strip() else {}
    if not conditions:
        raise ValueError(f"Say on what the measurement for {claim!r} was made.")
    for key, said in conditions.items():
        if key not in CONDITIONS or not isinstance(said, CONDITIONS[key]) or isinstance(said, bool):
            known = ", ".join(f"{name} ({kinds[0].__name__})" for name, kinds in CONDITIONS.items())
            raise ValueError(f"The conditions of {claim!r} say {key} = {said!r}; there are: {known}.")
    for key, choices in (("data", DATA), ("training", TRAININGS)):
        if conditions.get(key, choices[0]) not in choices:
            raise ValueError(f"The conditions of {claim!r}: {key} is one of {', '.join(choices)}.")
    return {"claim": claim, "value": value, "interval": interval, "conditions": conditions}


def in_words(conditions: dict) -> str:
    """Conditions as a reader wants them: "31³ voxels, 64 cells, contrast 10 and 50, shipped weights; ..."."""
    parts = []
    if "size" in conditions:
        parts.append(f"{conditions['size']}³ voxels")
    if "cells" in conditions:
        parts.append(f"{conditions['cells']:,} cell{'s' if conditions['cells'] != 1 else ''}")
    if "contrasts" in conditions:
        parts.append("contrast " + " and ".join(f"{contrast:g}" for contrast in conditions["contrasts"]))
    if "data" in conditions:
        words = {"design": "", "reference": "fields of the comparison study", "other": "cells unlike the paper's"}
        parts.append(words[conditions["data"]])
    if "training" in conditions:
        words = {"released": "the authors' weights", "shipped": "shipped weights", "experiment": "short trainings"}
        parts.append(words[conditions["training"]])
    if "seeds" in conditions:
        parts.append(f"{conditions['seeds']} training{'s' if conditions['seeds'] != 1 else ''} each")
    if "machine" in conditions:
        parts.append(conditions["machine"])
    return "; ".join(filter(None, [", ".join(filter(None, parts)), conditions.get("note", "")]))


@dataclass(frozen=True)
class Entry:
    """A claim with its measurement, if there is one.

    ``text`` is the paper's wording where ``quoted``, else ours. A claim with a ``tolerance`` is a number; any other
    is a statement, ``published`` as true, which a measured effect decides that is at ``least`` or at ``most`` so
    large, or a measurement that says whether it holds. ``needs`` are the least conditions under which the paper
    speaks, ``hardware`` the machine. ``construction``: our code cannot come out otherwise unless it is broken.
    ``same_as``: the claim whose measurement decides this one, too, where two ask one effect by bounds of their own.
    ``see`` is the chapter that shows it. ``where`` is (notebook stem, tag of the cell), or (file of a record, "").
    """

    id: str
    text: str
    quoted: bool
    section: str
    criterion: str
    published: float | bool = True
    tolerance: float | None = None
    better: str = ""
    least: float | None = None
    most: float | None = None
    unit: str = ""
    needs: dict = field(default_factory=dict)
    hardware: str = ""
    construction: bool = False
    same_as: str = ""
    note: str = ""
    see: str = ""
    where: tuple[str, str] | None = None
    value: float | bool | None = None
    interval: tuple[float, float] | None = None
    conditions: dict = field(default_factory=dict)

    @property
    def status(self) -> str:
        """One of :data:`STATUSES`.

        A number is ``reproduced`` within the tolerance, beyond it ``better than published`` on the claim's better
        side, else ``differs``; a statement that does not hold is ``not reproduced``. An interval that contains more
        than one of these is ``undecided``; so is a number beyond the tolerance under less than what the claim
        needs, as a number belongs to its conditions. What holds under less is ``reproduced at a smaller scale``.
        """
        if self.hardware and self.conditions.get("machine") != self.hardware:
            return "needs other hardware"
        if self.value is None:
            return "not tried"
        sides = {self._side(bound) for bound in (self.interval or (self.value,))}
        if len(sides) > 1:
            if sides != {"lower": {-1, 0}, "higher": {0, 1}}.get(self.better):
                return "undecided"
            sides = {0}  # as good as published at least
        side = sides.pop()
        if side == 0:
            return "reproduced" if self.meets_needs else "reproduced at a smaller scale"
        if self.tolerance is None:
            return "not reproduced"
        if not self.meets_needs:
            return "undecided"
        return "better than published" if side == {"lower": -1, "higher": 1}.get(self.better) else "differs"

    def _side(self, value: float | bool) -> int:
        """-1 below what counts as holding, 0 within, 1 above; 1 for a measurement that says that it does not hold."""
        if isinstance(value, bool):
            return 0 if value else 1
        least, most = self.least, self.most
        if self.tolerance is not None:
            margin = self.tolerance * (1 + 1e-12)
            least, most = self.published - margin, self.published + margin
        return -1 if least is not None and value < least else 1 if most is not None and value > most else 0

    @property
    def meets_needs(self) -> bool:
        """Whether the measurement was made under at least the claim's conditions; what is not said does not count."""
        for key, wanted in self.needs.items():
            found = self.conditions.get(key)
            if found is None or (found not in wanted if isinstance(wanted, list) else found < wanted):
                return False
        return True


def load_claims(path) -> list[Entry]:
    """The claims of a ledger file, without measurements. Raises ValueError for an entry that lacks something."""
    entries = []
    for number, item in enumerate(yaml.safe_load(Path(path).read_text(encoding="utf-8"))):
        name, item = item.get("id", number), dict(item)
        if ("quote" in item) == ("paraphrase" in item):
            raise ValueError(f"Claim {name!r} of {path} needs a quote or a paraphrase, one of the two.")
        if "tolerance" in item:
            item.setdefault("criterion", f"within {item['tolerance']:g} of it" if item["tolerance"] else "that number")
        missing = {"id", "section", "criterion"} - set(item)
        if missing:
            raise ValueError(f"Claim {name!r} of {path} lacks {', '.join(sorted(missing))}.")
        if ("tolerance" in item) == isinstance(item.get("published", True), bool):
            raise ValueError(f"Claim {name!r} of {path}: a published number needs a tolerance, and a statement none.")
        quoted = "quote" in item
        text = " ".join(item.pop("quote" if quoted else "paraphrase").split())
        try:
            entries.append(Entry(text=text, quoted=quoted, **{**item, "section": str(item["section"])}))
        except TypeError as error:
            raise ValueError(f"Claim {name!r} of {path}: {error}.") from error
    ids = [entry.id for entry in entries]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{path} lists a claim twice: {sorted({i for i in ids if ids.count(i) > 1})}.")
    measured = {"", *(entry.id for entry in entries if not entry.same_as)}
    if stray := [entry.id for entry in entries if entry.same_as not in measured]:
        raise ValueError(f"Claims of {path} are decided by one that is not listed or has no measurement: {stray}.")
    return entries


def table_1() -> dict[tuple[str, int], tuple[float, float]]:
    """The paper's Table 1: mean and deviation of the MASE, in percent, by network and contrast.

    Returns:
        {("comparison", 10): (3.07, 1.22), ("fln", 10): ..., ...}, in the paper's order.
    """
    entries = {entry.id: float(entry.published) for entry in load_claims(provenance.ROOT / "book" / "claims.yml")}
    rows = [name.removeprefix("table-1-mean-").rpartition("-") for name in entries if name.startswith("table-1-mean-")]
    return {
        (kind, int(contrast)): (
            entries[f"table-1-mean-{kind}-{contrast}"],
            entries[f"table-1-deviation-{kind}-{contrast}"],
        )
        for kind, _, contrast in rows
    }


def measurements(notebook) -> list[tuple[tuple[str, str], dict]]:
    """The measurements in an executed notebook: where, and what was recorded."""
    found = []
    for cell in json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if MEDIA_TYPE in output.get("data", {}):
                tags = cell["metadata"].get("tags", [])
                measured = checked(output["data"][MEDIA_TYPE])
                if not tags:
                    raise ValueError(
                        f"{Path(notebook).name} measures {measured['claim']!r} in a cell without a tag to link to."
                    )
                found.append(((Path(notebook).stem, tags[0]), measured))
    return found


def record_files() -> list[Path]:
    """The records that measure claims: those of the experiments, and the test errors of the shipped networks."""
    experiments = sorted((provenance.ROOT / "data" / "results").glob("*.json"))
    return experiments + sorted(weight_files.PRETRAINED.glob("*.test.json"))


def recorded(path) -> list[tuple[tuple[str, str], dict]]:
    """The measurements of a record: its list ``"claims"``, or the row of Table 1 that a network's test errors give.

    Networks of other cells than the paper's 31^3, or of another training than Table 1's, give no row.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    found = list(content.get("claims", []))
    if content.get("kind") in KINDS and content["data"]["size"] == PAPER_SIZE:
        found += _row_of_table_1(content)
    return [((Path(path).name, ""), checked(item)) for item in found]


def _row_of_table_1(content: dict) -> list[dict]:
    """Mean and deviation of a network's errors on its test cells, with 95 % intervals from their standard errors."""
    errors, name = np.array(content["mase"]), f"{content['kind']}-{content['contrast']:g}"
    mean, deviation = errors.mean(), errors.std()
    fourth = ((errors - mean) ** 4).mean()
    standard_errors = deviation, math.sqrt(fourth - deviation**4) / (2 * deviation)
    where = {"size": PAPER_SIZE, "cells": len(errors), "contrasts": [content["contrast"]], "data": "design"}
    rows = []
    for which, value, unit in zip(("mean", "deviation"), (mean, deviation), standard_errors, strict=True):
        margin = 1.96 * unit / math.sqrt(len(errors))
        row = {"claim": f"table-1-{which}-{name}", "value": round(value, 4)}
        interval = [round(value - margin, 4), round(value + margin, 4)]
        rows.append({**row, "interval": interval, "conditions": {**where, "training": "shipped"}})
    return rows


def ledger(path, notebooks, records=()) -> list[Entry]:
    """The claims of ``path`` with what the executed ``notebooks`` and the ``records`` measured.

    Raises:
        ValueError: a measurement of a claim that is not listed, twice measured, in a cell without a tag, or that says
            whether a claim holds where the claim asks for an effect.
    """
    entries = {entry.id: entry for entry in load_claims(path)}
    found = [item for notebook in notebooks for item in measurements(notebook)]
    found += [item for file in records for item in recorded(file)]
    for where, measured in found:
        place, name = " ".join(where).strip(), measured["claim"]
        if name not in entries:
            raise ValueError(f"{place} measures {name!r}, which {path} does not list.")
        for entry in [entry for entry in entries.values() if name in (entry.id, entry.same_as)]:
            if entry.where is not None:
                raise ValueError(f"{entry.id!r} is measured in {' '.join(entry.where).strip()} and in {place}.")
            asks_for_a_number = any(bound is not None for bound in (entry.tolerance, entry.least, entry.most))
            if asks_for_a_number == isinstance(measured["value"], bool):
                asked = "a number" if asks_for_a_number else "whether it holds"
                raise ValueError(f"{place} measures {entry.id!r} as {measured['value']!r}; the claim asks for {asked}.")
            interval = tuple(measured["interval"]) if measured["interval"] else None
            entries[entry.id] = replace(
                entry, where=where, value=measured["value"], interval=interval, conditions=measured["conditions"]
            )
    return list(entries.values())
