"""Chapters are numbered by the table of contents, and a chapter that the text names by its number is there."""

import json
import re

import pytest

from project import ROOT, notebooks, read_yaml
from sphinx_equations import CHAPTERS

NUMBER = {path.stem: n for n, path in enumerate(notebooks(), start=1)}


def mentioned(text: str) -> list[int]:
    """The numbers that a text gives to chapters."""
    return [int(number) for found in CHAPTERS.finditer(text) for number in re.findall(r"\d+", found[0])]


def texts() -> dict[str, str]:
    """Everything with words in it: notebooks without their outputs, pages, README."""
    found = {}
    for path in notebooks():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found[path.stem] = "\n".join("".join(cell["source"]) for cell in cells)
    for path in [*(ROOT / "book").glob("*.md"), ROOT / "README.md"]:
        found[path.name] = path.read_text(encoding="utf-8")
    return found


def test_mentions_are_read_in_each_form():
    assert mentioned("chapter 7, and Chapter 12; see chapters 14, 16 and 21, or chapters 2\nto 4") == [
        7,
        12,
        14,
        16,
        21,
        2,
        4,
    ]
    assert mentioned("a chapter of 7 pages, 3 chapters") == []


@pytest.mark.parametrize("stem", NUMBER)
def test_the_file_of_a_chapter_begins_with_its_number(stem):
    assert int(stem[:2]) == NUMBER[stem]


@pytest.mark.parametrize("name", texts())
def test_a_chapter_that_is_named_by_its_number_exists(name):
    numbers = mentioned(texts()[name])
    assert set(numbers) <= {int(stem[:2]) for stem in NUMBER}
    if name in NUMBER:
        assert int(name[:2]) not in numbers, "a chapter that speaks of itself by number"


def test_exactly_the_parts_with_chapters_are_numbered():
    for part in read_yaml(ROOT / "_toc.yml")["parts"]:
        chapters = [entry["file"].startswith("notebooks/") for entry in part["chapters"]]
        assert all(chapters) or not any(chapters)
        assert bool(part.get("numbered")) == all(chapters), part["caption"]
