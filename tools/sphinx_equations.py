"""A Sphinx extension: each equation numbered as in the paper is a place to link to, and "(11)" or "eq. 29" links there;
the number in "chapter 7" links to that chapter.

Numbers are the paper's, written as ``\\tag{11}`` where an equation stands, so that a notebook reads alike everywhere.
A mention leads to the equation on its own page, if it is there, else to its first place in the book.
"""

from __future__ import annotations

import re

from docutils import nodes

TAG = re.compile(r"\\tag\{(\d+[ab]?)\}")
MENTION = re.compile(r"(?P<open>(?<!\w)\(|\beqs?\.\s)(?P<number>\d{1,2}[ab]?)(?![\w.,]*\d)(?=\)|\b)")
#: "chapter 7", "chapters 14, 16 and 21", "chapters 12 to 14".
CHAPTERS = re.compile(r"\b[Cc]hapters?\s+\d+(?:(?:,\s+|\s+and\s+|\s+to\s+)\d+)*\b")
#: Text that is no prose, or a link already.
SKIPPED = (nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.title, nodes.raw)


#: Pages of tables and lists, where a number in brackets is none of the paper's.
LEFT_OUT = ("book/claims", "book/benchmarks", "book/parameters", "CHANGELOG")


def collect(app, doctree) -> None:
    """Give each equation its anchor, and note on which page it stands."""
    page = app.env.docname
    for block in doctree.findall(nodes.math_block):
        for number in TAG.findall(block.astext()):
            pages = app.env.__dict__.setdefault("paper_equations", {}).setdefault(number, [])
            if page not in pages:  # a second one on the page is a repetition
                pages.append(page)
                block["ids"].append(f"equation-{number}")


def link(app, doctree, page: str) -> None:
    """Make links of what the text says of numbered equations and chapters."""
    equations = app.env.__dict__.get("paper_equations", {})
    order = {name: n for n, name in enumerate(app.env.toctree_includes.get(app.config.root_doc, []))}
    chapters = {int(name[10:12]): name for name in app.env.found_docs if re.match(r"notebooks/\d\d_", name)}

    def uri(target: str) -> str:
        return "" if target == page else app.builder.get_relative_uri(page, target)

    for text in list(doctree.findall(nodes.Text)):
        ancestor = text.parent
        while ancestor is not None and not isinstance(ancestor, SKIPPED):
            ancestor = ancestor.parent
        if ancestor is not None:
            continue
        links = []  # (start, end, address) of each number
        for found in MENTION.finditer(text):
            number = found["number"]
            if number not in equations or (found["open"] == "(" and text[found.end() : found.end() + 1] != ")"):
                continue
            target = page if page in equations[number] else min(equations[number], key=lambda p: order.get(p, 0))
            links.append((found.start("number"), found.end("number"), f"{uri(target)}#equation-{number}"))
        for found in CHAPTERS.finditer(text):
            for number in re.finditer(r"\d+", found[0]):
                target = chapters.get(int(number[0]), page)
                if target != page:
                    links.append((found.start() + number.start(), found.start() + number.end(), uri(target)))
        parts, end = [], 0
        for first, last, address in sorted(links):
            parts += [
                nodes.Text(text[end:first]),
                nodes.reference("", text[first:last], internal=True, refuri=address, classes=["rln-equation"]),
            ]
            end = last
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(text[end:])])


def setup(app):
    app.connect("doctree-read", collect)
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
