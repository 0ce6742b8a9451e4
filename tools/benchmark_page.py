"""records of benchmarks -> a page of the book; and what a record must fulfil to be shown.

A generated table can be wrong, too: :func:`faults` computes again what a record says twice, from its seconds, and
looks for numbers that cannot be.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path

#: Parts of a record that say how it was made.
CIRCUMSTANCES = ("question", "date", "settings", "machine", "versions")
#: Raw numbers that stand in the record alone; the page has what follows from them.
RAW = ("seconds", "cells", "seconds_by_size")
#: Words in a key whose numbers cannot be 0.
POSITIVE = ("second", "ratio", "exponent", "bytes", "gflop", "share", "voxel", "cells")
#: What an iteration of the solver consists of.
SOLVER_PARTS = ("K u", "two transforms", "product by frequency", "scalar products and updates")
#: Agreement of numbers that are rounded to four digits.
ROUNDING = 2e-3


def records(folder: Path) -> dict[str, dict]:
    """The records of a folder by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(Path(folder).glob("*.json"))}


def faults(name: str, record: dict) -> list[str]:
    """What is wrong with a record, a sentence each; nothing for one that can be shown."""
    missing = [key for key in ("question", "settings", "machine", "versions") if not record.get(key)]
    found = [f"it lacks {key}" for key in missing]
    for path, value in _numbers({key: value for key, value in record.items() if key not in CIRCUMSTANCES}):
        words = " ".join(path)
        if not math.isfinite(value) or value < 0:
            found.append(f"{words} is {value}")
        elif value == 0 and any(word in path[0] for word in POSITIVE):
            found.append(f"{words} is 0")
    if not found:  # the rest divides by these numbers
        for check in (_order, _rates, _peak, _scaling, _memory, _rows, _mugrid):
            found += check(record)
    return [f"benchmarks/results/{name}.json: {fault}." for fault in found]


def _numbers(value, path=()) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, (*path, str(key)))
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def _differs(ours: float, recorded: float, tolerance: float = ROUNDING) -> bool:
    return abs(ours - recorded) > tolerance * abs(ours)


def _is_summary(value) -> bool:
    return isinstance(value, dict) and set(value) == {"median", "least", "most"}


def _order(value, path: str = "") -> list[str]:
    if _is_summary(value):
        ordered = value["least"] <= value["median"] <= value["most"]
        return [] if ordered else [f"the median of {path.strip()} is not between least and most"]
    parts = value.items() if isinstance(value, dict) else ()
    return [fault for key, part in parts for fault in _order(part, f"{path} {key}")]


def _rates(record: dict) -> list[str]:
    """Cells a second times seconds are the cells; a ratio is that of the seconds, turn by turn."""
    seconds, cells = record.get("seconds"), record.get("cells")
    if not isinstance(seconds, dict) or not isinstance(cells, dict):
        return []
    found = []
    for side, rate in record.get("cells_per_second", {}).items():
        if _differs(statistics.median(cells[side] / s for s in seconds[side]), rate["median"]):
            found.append(f"the rate of {side} is not its cells over its seconds")
    for pair, ratio in record.get("ratio", {}).items():
        ours, theirs = pair.split(" / ")
        turns = zip(seconds[ours], seconds[theirs], strict=True)
        if _differs(statistics.median(cells[ours] / a / (cells[theirs] / b) for a, b in turns), ratio["median"]):
            found.append(f"the ratio {pair} is not that of the seconds")
    return found


def _peak(record: dict) -> list[str]:
    """No side does more operations a second than a matrix product of its precision."""
    found = []
    for side, work in record.get("gflop_per_cell", {}).items():
        product = "matrix product, bfloat16" if "bfloat16" in side else "matrix product"
        peak = record["matrix_product_gflop_per_second"][product]["median"]
        share = record["cells_per_second"][side]["median"] * work / peak
        if _differs(share, record["share_of_matrix_product_rate"][side]):
            found.append(f"the share of {side} in the matrix product's rate is not {share:.3g}")
        if share > 1.25:  # the product's own rate moves by a few percent
            found.append(f"{side} does {share:.2f} times the operations of a matrix product in its time")
    return found


def _scaling(record: dict) -> list[str]:
    voxels, found = record.get("voxels"), []
    for side, by_size in record.get("seconds_by_size", {}).items():
        medians = [statistics.median(spent) for spent in by_size]
        if any(map(_differs, medians, record["median_seconds"][side])):
            found.append(f"the medians of {side} are not those of its seconds")
        x, y = [math.log(v) for v in voxels], [math.log(s) for s in medians]
        if abs(statistics.linear_regression(x, y).slope - record["exponent"][side]) > 0.01:
            found.append(f"the exponent of {side} is not that of its seconds")
        if medians != sorted(medians):
            found.append(f"{side} takes less time for more voxels")
    return found


def _memory(record: dict) -> list[str]:
    found = []
    for side, mebibytes in record.get("peak_mebibytes", {}).items():
        cells, _, size = side.rsplit(", ", 1)[-1].split()
        if (
            abs(record["bytes_per_voxel"][side] * int(cells) * int(size) ** 3 / 2**20 - mebibytes)
            > 0.1 + 0.01 * mebibytes
        ):
            found.append(f"the bytes a voxel of {side} do not make its peak")
        if mebibytes > record["machine"].get("memory_mebibytes", math.inf):
            found.append(f"{side} takes more memory than the machine has")
    return found


def _rows(record: dict) -> list[str]:
    """Points of the time-accuracy plane."""
    found = []
    for row in record.get("rows", []):
        if "seconds_a_cell" not in row:
            continue
        name = f"{row['method']}, {row['precision']}, contrast {row['contrast']:g}, {row['mode']}"
        columns = [row[key] for key in ("steps", "least", "seconds_a_cell", "most", "mase_percent")]
        if len({len(column) for column in columns}) != 1:
            found.append(f"{name}: the columns differ in length")
        elif not all(a <= b <= c for _, a, b, c, _ in zip(*columns, strict=True)):
            found.append(f"{name}: a median is not between least and most")
        elif row["seconds_a_cell"][-1] < 0.5 * row["seconds_a_cell"][0]:  # beside the set-up, a step may be noise
            found.append(f"{name}: many steps take half the time of one")
        elif row["mase_percent"][-1] > row["mase_percent"][0]:
            found.append(f"{name}: the error grows with the steps")
    return found


def _mugrid(record: dict) -> list[str]:
    medians, found = record.get("median_seconds"), []
    if "ratio_to_mugrid" not in record or not isinstance(medians, dict):
        return []
    for side, spent in record["seconds"].items():
        if _differs(statistics.median(spent), medians[side]):
            found.append(f"the median of {side} is not that of its seconds")
    for side, ratio in record["ratio_to_mugrid"].items():
        if _differs(medians[side] / medians["rlnlib"], ratio):
            found.append(f"the ratio to {side} is not that of the medians")
    return found


def bounds(found: dict[str, dict]) -> list[tuple[str, float, str, float]]:
    """What the library aims at: what is measured, its value, "at least" or "at most", the bound."""
    rows: list[tuple[str, float, str, float]] = []
    if forward := found.get("network_forward"):
        ratio, mase = forward["ratio"], forward["mase_percent"]
        for pair, value in ratio.items():
            if pair.startswith("rlnlib / plain"):
                rows.append(("prediction in float32, times a plain one", value["median"], "at least", 1.7))
            if pair.startswith("rlnlib, bfloat16 / plain"):
                rows.append(("prediction in bfloat16, times a plain float32 one", value["median"], "at least", 3.5))
        exact = forward["largest_difference_to_plain"] / forward["largest_value"]
        rows.append(("largest difference in float32, relative to the largest value", exact, "at most", 1e-5))
        drift = abs(mase["bfloat16"] - mase["float32"])
        rows.append(("change of the MASE by bfloat16, percent", drift, "at most", 0.1))
        rows.append(
            (
                "MASE between bfloat16 and float32, percent",
                forward["mase_percent_between_the_precisions"],
                "at most",
                0.1,
            )
        )
    if scaling := found.get("scaling"):
        rows.append(("exponent of the RLN's time in voxels", scaling["exponent"]["rln"], "at most", 1.05))
    for name, record in found.items():
        for side, least in (("mugrid float32", 10.0), ("mugrid float64", 4.0)):
            if side in record.get("ratio_to_mugrid", {}):
                cores = record["machine"].get("cores", "?")
                text = f"solver, times {side.replace('mugrid', 'muGrid in')}, cores: {cores} (`{name}`)"
                rows.append((text, record["ratio_to_mugrid"][side], "at least", least))
    return rows


def limits(record: dict) -> list[tuple[str, float, float]]:
    """By precision: the share of the matrix product's rate, and the ratio to plain at the full rate."""
    ratios = {pair.split(" / ")[0]: value["median"] for pair, value in record["ratio"].items() if "/ plain" in pair}
    shares = record["share_of_matrix_product_rate"]
    return [
        ("bfloat16" if "bfloat16" in side else "float32", shares[side], ratio / shares[side])
        for side, ratio in ratios.items()
    ]


def solver_limit(record: dict) -> tuple[float, float, float]:
    """Nanoseconds a voxel and iteration, whole and in its parts; and the ratio to muGrid with these parts only."""
    parts = record["nanoseconds_per_voxel_and_iteration"]
    whole = parts["rlnlib, whole solve, core time"]
    alone = sum(parts[part] for part in SOLVER_PARTS)
    return whole, alone, record["ratio_to_mugrid"]["mugrid float32"] * whole / alone


def page(found: dict[str, dict], introduction: str) -> str:
    """The page: what was aimed at, then a section for each record."""
    text = f"{introduction.rstrip()}\n\n## What was aimed at\n\n| measured | value | bound | |\n|---|---|---|---|\n"
    for what, value, sense, bound in bounds(found):
        reached = value >= bound if sense == "at least" else value <= bound
        text += f"| {what} | {shown(value)} | {sense} {bound:g} | {'reached' if reached else 'not reached'} |\n"
    if forward := found.get("network_forward"):
        text += "\nThe plain prediction is taken in the batch that suits it best. "
        for precision, share, ratio in limits(forward):
            text += f"In {precision} ours runs at {shown(share)} of the rate of a matrix product, "
            text += f"at which it would be {shown(ratio)} times the plain one. "
        text += (
            "The rest goes to padding, activations and sums; in bfloat16 also to the first and the last convolution, "
        )
        text += "which stay in float32 for the sake of the error.\n"
    if solver := found.get("solver_against_mugrid_1"):
        whole, alone, ratio = solver_limit(solver)
        text += f"\nOn one core a voxel of the solver takes {shown(whole)} nanoseconds an iteration, but its parts by "
        text += f"themselves ({', '.join(SOLVER_PARTS)}) {shown(alone)}. The rest is set-up, the residual confirmed in "
        text += "float64, fields that the caches no longer hold and Python between the parts, which two cores share: "
        text += f"without it the solver would be {shown(ratio)} times muGrid in float32.\n"
    gpus = sorted({record["machine"]["gpu"] for record in found.values() if record["machine"].get("gpu")})
    text += f"\nOn a GPU: {', '.join(gpus) if gpus else 'not measured'}.\n"
    for name, record in found.items():
        text += f"\n## {record['question'][0].upper()}{record['question'][1:]}\n\n{_circumstances(name, record)}\n"
        for key, value in record.items():
            if key not in CIRCUMSTANCES and key not in RAW:
                text += _part(key, value, record)
    return text


def shown(value) -> str:
    """A number as the page writes it: to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(shown(part) for part in value)
    return str(value)


def _circumstances(name: str, record: dict) -> str:
    machine, versions = record["machine"], record["versions"]
    made = f"`{name}.json`" + (f", {record['date']}" if "date" in record else "")
    cores = machine.get("cores", "?")
    on = f"{cores} core{'' if cores == 1 else 's'} of {machine.get('cpu', 'an unknown CPU')}"
    if machine.get("gpu"):
        on += f", {machine['gpu']}"
    settings = ", ".join(f"{key} = {shown(value)}" for key, value in record["settings"].items())
    return f"{made}. {on}; {', '.join(f'{key} {value}' for key, value in versions.items())}. Settings: {settings}."


def _part(key: str, value, record: dict) -> str:
    title = key.replace("_", " ")
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return f"\n{title}, the last step of each:\n\n" + _last_steps(value)
    if _is_summary(value):
        value = {title: value}
    if not isinstance(value, dict) or not value:
        return f"\n{title}: {shown(value)}\n"
    if all(map(_is_summary, value.values())):
        rows = [[side, *(part[name] for name in ("median", "least", "most"))] for side, part in value.items()]
        return f"\n{title}:\n\n" + _table(["", "median", "least", "most"], rows)
    lists = [part for part in value.values() if isinstance(part, list)]
    sizes = record.get("voxels", [])
    if lists and all(len(part) == len(sizes) for part in lists):
        return f"\n{title}:\n\n" + _table(["voxels", *map(str, sizes)], [[side, *part] for side, part in value.items()])
    return f"\n{title}:\n\n" + _table(["", ""], [[side, part] for side, part in value.items()])


def _last_steps(rows: list[dict]) -> str:
    heads = list(rows[0])
    return _table(
        [head.replace("_", " ") for head in heads],
        [[row[head][-1] if isinstance(row.get(head), list) else row.get(head, "") for head in heads] for row in rows],
    )


def _table(heads: list[str], rows: list[list]) -> str:
    lines = [heads, ["---"] * len(heads), *([shown(part) for part in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
