"""The front page: its numbers are those of the records, and its map is the table of contents."""

import json
import re

import pytest

import front_page
from project import ROOT, Failure, notebooks
from rlnlib.rln import KINDS

TEXT = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")


def test_every_number_of_the_front_page_comes_from_a_record():
    page = front_page.page(TEXT)
    assert "{{" not in page
    test = json.loads((ROOT / "data/pretrained/rln-10-31.test.json").read_text(encoding="utf-8"))
    assert f"{test['metrics']['mase_mean']:.2f} ±" in page
    known = front_page.numbers()
    assert set(known) >= set(re.findall(r"\{\{ (.+?) \}\}", TEXT)) - {"map"}


def test_a_name_without_a_number_is_refused():
    with pytest.raises(Failure, match="no such number"):
        front_page.page("{{ no such number }}")


def test_what_the_front_page_says_of_the_numbers_holds():
    """Its words compare the numbers, which may change with a new record."""
    known = {name: float(value) for name, value in front_page.numbers().items() if re.fullmatch(r"[\d.]+", value)}
    assert known["kernel-10"] > known["fln-10"]
    for contrast in ("10", "50"):
        rows = [known[f"{kind}-{contrast}-31"] for kind in KINDS]
        assert rows == sorted(rows, reverse=True)
        assert all(own < known[f"paper-{kind}-{contrast}"] for own, kind in zip(rows, KINDS, strict=True))
        assert known[f"rln-further-{contrast}-31"] < known[f"paper-rln-{contrast}"]
        assert known[f"conjugate gradients, {contrast}"] < known[f"RLN, {contrast}"] / 3
        assert known[f"conjugate gradients, {contrast}"] < known[f"fixed point, {contrast}"] / 3
    assert known["fixed point, 10"] < known["RLN, 10"]  # "at contrast 10 the plain fixed point, too": differences.md
    assert known["hex8-10"] > 2 * known["rln-10-31"] and known["hex8-50"] > 1.1 * known["rln-50-31"]
    assert known["16 on 31, 10"] > 2 * known["16 on 16, 10"] and known["31 on 31, 10"] < known["16 on 31, 10"] / 2


def test_the_map_has_every_chapter_in_its_order():
    lines = front_page.chapter_map().splitlines()
    listed = [re.search(r"^(\d+)\. \[.+\]\(\.\./notebooks/(\w+)\.ipynb\): .+[.?]$", line) for line in lines]
    found = [match.groups() for match in listed if match]
    assert found == [(str(n), path.stem) for n, path in enumerate(notebooks(), start=1)]


def test_a_chapter_is_listed_with_its_question_or_with_what_it_shows():
    assert front_page.purpose("# A\n\nWhat\nfor?\n\n**Shows** this. And that.") == "What for?"
    assert front_page.purpose("# A\n\n**Shows** this: so. And that.\n\n**Needs** B.") == "This."
    asked = "# A\n\n**Shows** this. The question is: *what for,\nand why?* And that.\n\n**Needs** B."
    assert front_page.purpose(asked) == "What for, and why?"


def test_the_picture_shows_phases_and_both_strains():
    figure = front_page.picture()
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles[:2] == ["a unit cell", "its strain, solved"] and re.fullmatch(
        r"predicted: \d\.\d % off .*", titles[2]
    )
