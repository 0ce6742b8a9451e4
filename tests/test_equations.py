"""Each numbered equation of the paper stands on the line of the library that implements it."""

import re
import tokenize
from pathlib import Path

import pytest

import rlnlib

LIBRARY = Path(rlnlib.__file__).parent


def lines_of(number: int, folder: Path = LIBRARY) -> list[str]:
    """Comments on a line of code, or on the line above it, with an equation's own number: "eqs. 1 and 2", no range."""
    found = []
    for file in sorted(folder.glob("*.py")):
        with tokenize.open(file) as text:
            tokens = list(tokenize.generate_tokens(text.readline))
        for token in (token for token in tokens if token.type == tokenize.COMMENT):
            for name in re.findall(r"eqs?\. (\d+[ab]?(?:(?:, | and )\d+[ab]?)*)", token.string):
                if str(number) in re.findall(r"\d+", name):
                    found.append(f"{file.name}:{token.start[0]}: {token.line.strip()}")
    return found


@pytest.mark.parametrize("number", range(1, 30))
def test_the_line_that_implements_each_equation_names_it(number):
    assert lines_of(number)


def test_an_equation_that_the_paper_does_not_have_is_found_nowhere():
    assert not lines_of(30) and not lines_of(0)


def test_a_docstring_alone_does_not_count(tmp_path):
    (tmp_path / "one.py").write_text('def f(x):\n    """Doubles (eq. 7)."""\n    return 2 * x  # eqs. 3 and 13b\n')
    assert lines_of(3, tmp_path) == lines_of(13, tmp_path) == ["one.py:3: return 2 * x  # eqs. 3 and 13b"]
    assert not lines_of(7, tmp_path)
