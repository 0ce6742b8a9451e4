"""Each numbered equation of the paper stands on the line of the library that implements it."""

import re
from pathlib import Path

import pytest

import rlnlib

LIBRARY = Path(rlnlib.__file__).parent


def lines_of(number: int) -> list[str]:
    """Lines that name an equation by its own number: "eq. 17", "eqs. 1 and 2", but no range."""
    found = []
    for file in sorted(LIBRARY.glob("*.py")):
        for n, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            for name in re.findall(r"eqs?\. (\d+a?(?:(?:, | and )\d+a?)*)", line):
                if str(number) in re.findall(r"\d+", name):
                    found.append(f"{file.name}:{n}: {line.strip()}")
    return found


@pytest.mark.parametrize("number", range(1, 30))
def test_the_library_names_the_line_of_each_equation(number):
    assert lines_of(number)


def test_an_equation_that_the_paper_does_not_have_is_found_nowhere():
    assert not lines_of(30) and not lines_of(0)
