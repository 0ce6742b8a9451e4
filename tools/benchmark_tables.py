"""Records of benchmarks -> the generated part of the page on them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlnlib.book.benchmarks import CIRCUMSTANCES, RAW

#: What the end of a record's name says, where two records answer one question.
ENDINGS = {"1": ", one core", "2": ", two cores", "16": ", 16³", "31": ", 31³", "512": ", 512³"}
#: What an iteration of the solver consists of.
SOLVER_PARTS = ("K u", "two transforms", "product by frequency", "scalar products and updates")


def faults(name: str, record: dict) -> list[str]:
    """What is wrong with a record, a sentence each; nothing for one that can be shown."""
    missing = [key for key in ("question", "settings", "machine", "versions") if not record.get(key)]
    found = [f"it lacks {key}" for key in missing]
    for path, value in _numbers({key: value for key, value in record.items() if key not in CIRCUMSTANCES}):
        if not math.isfinite(value) or value < 0:
            found.append(f"{' '.join(path)} is {value}")
    for side, share in record.get("share_of_matrix_product_rate", {}).items():
        if share > 1.25:  # the product's own rate moves by a few percent
            found.append(f"{side} does {share:.2f} times the operations of a matrix product in its time")
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


def bounds(found: dict[str, dict]) -> list[tuple[str, float, str, float]]:
    """What the library aims at: what is measured, its value, "at least" or "at most", the bound."""
    rows: list[tuple[str, float, str, float]] = []
    if forward := found.get("network_forward"):
        mase = forward["mase_percent"]
        for pair, value in forward["ratio"].items():
            if pair.startswith("rlnlib / plain"):
                rows.append(("prediction in float32, times a plain one", value["median"], "at least", 1.7))
            if pair.startswith("rlnlib, bfloat16 / plain"):
                rows.append(("prediction in bfloat16, times a plain float32 one", value["median"], "at least", 3.5))
        exact = forward["largest_difference_to_plain"] / forward["largest_value"]
        rows.append(("largest difference in float32, relative to the largest value", exact, "at most", 1e-5))
        drift = abs(mase["bfloat16"] - mase["float32"])
        rows.append(("change of the MASE by bfloat16, percent", drift, "at most", 0.1))
        between = forward["mase_percent_between_the_precisions"]
        rows.append(("MASE between bfloat16 and float32, percent", between, "at most", 0.1))
    if scaling := found.get("scaling"):
        rows.append(("exponent of the RLN's time in voxels", scaling["exponent"]["rln"], "at most", 1.05))
    for name, record in found.items():
        for side, least in (("mugrid float32", 10.0), ("mugrid float64", 4.0)):
            if ratio := record.get("ratio", {}).get(f"rlnlib / {side}"):
                cores = record["machine"].get("cores", "?")
                text = f"solver, times {side.replace('mugrid', 'muGrid in')}, cores: {cores} (`{name}`)"
                rows.append((text, ratio["median"], "at least", least))
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
    updates = sum(record["iterations"]["rlnlib"]) * record["settings"]["size"] ** 3
    spent = record["settings"]["cells"] / record["cells_per_second"]["rlnlib"]["median"]
    whole = 1e9 * record["machine"]["cores"] * spent / updates
    alone = sum(record["nanoseconds_per_voxel_and_iteration"][part] for part in SOLVER_PARTS)
    return whole, alone, record["ratio"]["rlnlib / mugrid float32"]["median"] * whole / alone


def page(found: dict[str, dict]) -> str:
    """What was aimed at, then a section for each record."""
    text = "## What was aimed at\n\n| measured | value | bound | |\n|---|---|---|---|\n"
    for what, value, sense, bound in bounds(found):
        reached = value >= bound if sense == "at least" else value <= bound
        text += f"| {what} | {shown(value)} | {sense} {bound:g} | {'reached' if reached else 'not reached'} |\n"
    if forward := found.get("network_forward"):
        text += "\nThe plain prediction is taken in the batch that suits it best. "
        for precision, share, ratio in limits(forward):
            text += f"In {precision} ours runs at {shown(share)} of the rate of a matrix product, "
            text += f"at which it would be {shown(ratio)} times the plain one. "
        text += "What is missing from 1 goes to padding, activations and sums; in bfloat16 also to the first and the "
        text += "last convolution, which stay in float32 for the sake of the error.\n"
    if solver := found.get("solver_against_mugrid_1"):
        whole, alone, ratio = solver_limit(solver)
        text += f"\nOn one core a voxel of the solver takes {shown(whole)} nanoseconds an iteration, but its parts by "
        text += f"themselves ({', '.join(SOLVER_PARTS)}) {shown(alone)}. The rest is set-up, the residual confirmed in "
        text += "float64, fields that the caches no longer hold and Python between the parts: "
        text += f"without it the solver would be {shown(ratio)} times muGrid in float32.\n"
    gpus = sorted({record["machine"]["gpu"] for record in found.values() if record["machine"].get("gpu")})
    text += f"\nOn a GPU: {', '.join(gpus) if gpus else 'not measured'}.\n"
    for name, record in found.items():
        of = ENDINGS.get(name.rpartition("_")[2], "")
        asked, mark, _ = (record["question"][0].upper() + record["question"][1:]).partition("?")
        text += f"\n## {asked}{of}{mark}\n\n{_circumstances(name, record)}\n"
        for key, value in record.items():
            if key not in CIRCUMSTANCES and key not in RAW and value != {}:
                text += _part(key, value, record)
    return text


def shown(value) -> str:
    """A number as the page writes it: to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(shown(part) for part in value)
    return str(value)


def table(heads: list[str], rows: list[list]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *([shown(part) for part in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _circumstances(name: str, record: dict) -> str:
    machine, versions = record["machine"], record["versions"]
    made = f"`{name}.json`" + (f", {record['date']}" if "date" in record else "")
    made += f", commit {record['commit']}" if record.get("commit") else ""
    cores = machine.get("cores", "?")
    on = f"{cores} core{'' if cores == 1 else 's'} of {machine.get('cpu', 'an unknown CPU')}"
    if machine.get("gpu"):
        on += f", {machine['gpu']}"
    load = machine.get("load", machine.get("load_before", 0))
    busy = f" Other work kept the machine busy: a load of {load:.0f}." if load > 2 * machine.get("cores", 1) else ""
    settings = ", ".join(f"{key} = {shown(value)}" for key, value in record["settings"].items())
    by = ", ".join(f"{key} {value}" for key, value in versions.items())
    return f"{made}. {on}; {by}. Settings: {settings}.{busy}"


def _part(key: str, value, record: dict) -> str:
    title = key.replace("_", " ")
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return f"\n{title}, the last step of each:\n\n" + _last_steps(value)
    if _is_spread(value):
        value = {title: value}
    if not isinstance(value, dict) or not value:
        return f"\n{title}: {shown(value)}\n"
    if all(map(_is_spread, value.values())):
        rows = [[side, *(part[name] for name in ("median", "least", "most"))] for side, part in value.items()]
        return f"\n{title}:\n\n" + table(["", "median", "least", "most"], rows)
    leaves = [leaf for part in value.values() if isinstance(part, dict) for leaf in part.values()]
    if leaves and all(isinstance(leaf, dict) for leaf in leaves):
        rows = [[side, name, *leaf.values()] for side, part in value.items() for name, leaf in part.items()]
        return f"\n{title}:\n\n" + table(["", "", *leaves[0]], rows)
    lists = [part for part in value.values() if isinstance(part, list)]
    sizes = record.get("voxels", [])
    if lists and all(len(part) == len(sizes) for part in lists):
        return f"\n{title}:\n\n" + table(["voxels", *map(str, sizes)], [[side, *part] for side, part in value.items()])
    return f"\n{title}:\n\n" + table(["", ""], [[side, part] for side, part in value.items()])


def _is_spread(value) -> bool:
    return isinstance(value, dict) and set(value) == {"median", "least", "most"}


def _last_steps(rows: list[dict]) -> str:
    heads = list(rows[0])
    return table(
        [head.replace("_", " ") for head in heads],
        [[row[head][-1] if isinstance(row.get(head), list) else row.get(head, "") for head in heads] for row in rows],
    )
