"""The page of the ledger of claims, and the list of those that came out otherwise, from what was recorded."""

from __future__ import annotations

from dataclasses import replace

from project import notebooks
from rlnlib.book import claims, figures
from rlnlib.rln import KINDS

#: What a status says, for the table that opens the page.
MEANING = {
    "reproduced": "it holds, or the number lies within its tolerance, under the conditions that the claim needs",
    "reproduced at a smaller scale": "it holds, but on smaller cells, fewer of them or a shorter training",
    "better than published": "a number beyond the tolerance, on the better side",
    "differs": "a number beyond the tolerance",
    "not reproduced": "by its criterion it does not hold",
    "undecided": "the interval contains both outcomes, or a number was measured under less than it belongs to",
    "needs other hardware": "it speaks of a machine that we do not have; beside it, what ours takes",
    "not tried": "nothing was measured",
}


#: Between what stands at the head of the page and what stands at its end; what to read first stands between them.
PARTING = "<!-- how to read it -->"
#: What a reader should remember: a question, and the claims that answer it, each in a few words; {} is our value.
REMEMBER = {
    "Are the equations right?": {
        "the Lippmann-Schwinger equation (10)": "equation-10-holds",
        "the gradient as (27) prints it, of a plain sum of squares": "equation-27-is-the-gradient",
        "the last term of (28)": "equation-28-zero-mean",
    },
    "Does iterating help?": {
        "RLN-t over FLN, the authors' networks": "fln-vastly-outperformed",
        "the order of the three, ours": "rln-better-than-rln-t-better-than-fln",
    },
    "Is it faster?": {
        "assembled finite elements, solved to 1e-6, take twice as long at least ({})": "advantage-over-finite-elements",
        "ten times at least": "faster-than-finite-elements",
        "conjugate gradients, to the RLN's error, take twice as long at least ({})": "prediction-speed",
    },
    "Are the errors of Table 1 reached here?": {
        f"{figures.NAMES[kind]}, contrast {contrast}": f"table-1-mean-{kind}-{contrast}"
        for contrast in (10, 50)
        for kind in KINDS
    },
}


def page(entries: list[claims.Entry]) -> str:
    """What to remember, how many claims have which status, then the claims of each section of the paper."""
    by_id = {entry.id: entry for entry in entries}
    text = "| what to remember | status |\n|---|---|\n"
    for question, answers in REMEMBER.items():
        found = [f"{what.format(measured(by_id[name]))}: {by_id[name].status}" for what, name in answers.items()]
        text += f"| {question} | {'; '.join(found)} |\n"
    text += f"\n{PARTING}\n\n| status | claims | says |\n|---|---|---|\n"
    for status in claims.STATUSES:
        of_status = [entry for entry in entries if entry.status == status]
        text += f"| {status} | {len(of_status)} | {MEANING[status]}{part_of(of_status)} |\n"
    section = None
    for entry in entries:
        if entry.section != section:
            section = entry.section
            text += f"\n## Section {section}\n\n"
        text += item(entry)
    return text


def part_of(entries: list[claims.Entry]) -> str:
    """How many of the claims of a status hold by construction, failed under less than the paper's conditions, or ask
    more than the paper says."""
    parts = {
        "by construction": sum(entry.construction for entry in entries),
        "under less than the claim needs": sum(bool(failed_under_less(entry)) for entry in entries),
        "wider readings of ours": sum("wider reading" in entry.text for entry in entries),
    }
    return "".join(f"; {count} of them {what}" for what, count in parts.items() if count)


def otherwise(entries: list[claims.Entry]) -> str:
    """The claims that we measured otherwise than the paper."""
    found = [item(entry) for entry in entries if entry.status in claims.OTHERWISE]
    return "".join(found) or "None of those measured so far.\n"


def item(entry: claims.Entry) -> str:
    """One claim as an item of a list, which a narrow screen breaks into lines as a table would not be."""
    words = f"“{entry.text}”" if entry.quoted else f"{entry.text} *(paraphrase)*"
    lines = [f"- **{entry.status[0].upper() + entry.status[1:]}.** {words} (section {entry.section})"]
    asked = f"asked: {entry.criterion}"
    if entry.tolerance is not None:
        asked = f"paper: {entry.published:,g} {entry.unit}; counts as reproduced: {entry.criterion}"
    lines.append(asked + (f"; under: {under(entry)}" if entry.needs else ""))
    if entry.value is not None:
        lines.append(f"ours: {measured(entry)}, on: {claims.in_words(entry.conditions)}; {link(entry)}")
    if less := failed_under_less(entry):
        lines.append(f"failed under less: {less}; no run under the paper's own conditions was made")
    if entry.construction:
        lines.append("by construction: our code cannot come out otherwise unless it is broken")
    if entry.note:
        lines.append(f"note: {entry.note}")
    if entry.see:
        lines.append(f'shown in <a href="../notebooks/{chapter(entry.see)}">a chapter</a>')
    return "\\\n  ".join(lines) + "\n"


def under(entry: claims.Entry) -> str:
    """The conditions that the paper's words belong to, in words."""
    choices = {key: wanted if isinstance(wanted, list) else [wanted] for key, wanted in entry.needs.items()}
    return ", ".join(" or ".join(claims.in_words({key: one}) for one in of_key) for key, of_key in choices.items())


def failed_under_less(entry: claims.Entry) -> str:
    """Of a claim that failed under less than it needs, what was less, in words; of any other nothing."""
    if entry.status != "not reproduced":
        return ""
    parts = []
    for key, wanted in entry.needs.items():
        one = replace(entry, needs={key: wanted})
        if not one.meets_needs:
            found = claims.in_words({key: entry.conditions[key]}) if key in entry.conditions else "not said"
            parts.append(f"{found} in place of {under(one)}")
    return " and ".join(parts)


def measured(entry: claims.Entry) -> str:
    """What we found, in words: whether it holds, or the number with its unit and interval."""
    if entry.value is None:
        return "not measured"
    if isinstance(entry.value, bool):
        return "holds" if entry.value else "does not hold"
    interval = ", interval {} to {}".format(*map(digits, entry.interval)) if entry.interval else ""
    return f"{digits(entry.value)} {entry.unit}".strip() + interval


def digits(number: float) -> str:
    """A number to four digits, so that a ratio near 1 has three decimals; a large one in full."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def link(entry: claims.Entry) -> str:
    """Where the measurement was made: a cell of a notebook, or a record and its script."""
    place, tag = entry.where or ("", "")
    if tag:
        return f'<a href="../notebooks/{place}.html#cell-{tag}">cell</a>'
    return f"record `data/results/{place}`"


def chapter(see: str) -> str:
    """Address of "name" or "name#tag of a cell", the notebook of that name, whatever its number.

    Raises ValueError for one that does not exist.
    """
    name, _, tag = see.partition("#")
    chapters = [path.stem for path in notebooks()]
    found = [stem for stem in chapters if stem.partition("_")[2] == name]
    if len(found) != 1:
        raise ValueError(f"The ledger of claims points to the chapter {name!r}; there are {', '.join(chapters)}.")
    return f"{found[0]}.html" + (f"#cell-{tag}" if tag else "")
