"""A plugin of pytest for nbval: outputs of executed copies, printed numbers compared within a tolerance.

Loaded by ``tools/build.py compare``. nbval would run each notebook once more; with ``--executed FOLDER`` it is answered
from the copies that papermill made for the book. Processors and their libraries round differently, so that a number
with a decimal point or an exponent, or a whole number of percent, may differ by one unit of its last printed digit, of
which at most six significant ones count. What rounding leaves of zero, "missed by 2e-13", agrees with any other such.
Words, signs, other whole numbers and the number of outputs must be the same; how many spaces stand between them does
not count.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import nbformat

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w])")

#: "missed by" a number up to this is rounding, which differs between processors: any two of them agree. The cell itself
#: fails where a check misses by more than its limit.
ROUNDING = 1e-5


def agree(stored: str, new: str) -> bool:
    """Whether a text is a stored one up to the last printed digit of its numbers."""
    words = [re.sub(" +", " ", NUMBER.sub(" # ", text)) for text in (stored, new)]
    if words[0] != words[1]:
        return False
    pairs = zip(NUMBER.finditer(stored), NUMBER.finditer(new), strict=True)
    return all(
        one[0] == other[0]
        or (rounding(stored, one) and rounding(new, other))
        or abs(float(one[0].replace(",", "")) - float(other[0].replace(",", "")))
        <= max(unit(stored, one), unit(new, other)) * (1 + 1e-9)
        for one, other in pairs
    )


def rounding(text: str, number: re.Match) -> bool:
    """Whether a number is what rounding has left of zero: printed by ``missed``, within single precision."""
    return text[: number.start()].endswith("missed by ") and float(number[0]) <= ROUNDING


def unit(text: str, number: re.Match) -> float:
    """What a number may differ by: one unit of its last digit; 0 for a whole number that is not of percent."""
    mantissa, _, exponent = number[0].replace(",", "").lower().partition("e")
    if "." not in mantissa and not exponent and not re.match(r" ?%", text[number.end() :]):
        return 0.0
    last = int(exponent or 0) - len(mantissa.partition(".")[2])
    value = abs(float(number[0].replace(",", "")))
    return 10.0 ** max(last, math.floor(math.log10(value)) - 5 if value else last)


class Printed(str):
    """A text that equals another one if they :func:`agree`."""

    __hash__ = None

    def __eq__(self, other):
        return agree(self, other)

    def __ne__(self, other):
        return not agree(self, other)


class Executed:
    """Answers nbval as the kernel of a notebook would, with the outputs of a copy that was executed before."""

    def __init__(self, copy: Path):
        self.cells = [cell for cell in nbformat.read(copy, as_version=4).cells if cell.cell_type == "code"]
        self.messages: list[tuple[str, dict]] = []
        self.asked = 0

    def execute_cell_input(self, source: str, allow_stdin: bool = False) -> int:
        """Have the messages of the next code cell ready. Raises RuntimeError if the copy has another one there."""
        cell, self.asked = self.cells[self.asked], self.asked + 1
        if cell.source != source and "bootstrap" not in cell.metadata.get("tags", []):
            raise RuntimeError(f"The executed copy has another code cell at place {self.asked}.")
        self.messages = [(output.output_type, output) for output in cell.outputs]
        self.messages.append(("status", {"execution_state": "idle"}))
        return self.asked

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        """The next message of the cell asked for last, in the form that Jupyter gives it."""
        kind, content = self.messages.pop(0)
        return {"msg_type": kind, "content": content, "parent_header": {"msg_id": self.asked}}

    def is_alive(self) -> bool:
        return True

    def do_nothing(self, *arguments, **options) -> None:
        """Nothing runs, so that there is no reply to wait for and nothing to stop."""

    await_reply = await_idle = stop = do_nothing


def pytest_addoption(parser):
    parser.addoption("--executed", help="the folder of the executed copies of the notebooks")


def pytest_configure(config):
    from nbval.plugin import IPyNbCell, IPyNbFile

    def setup(notebook):
        notebook.kernel = Executed(Path(config.option.executed) / notebook.path.name)
        notebook.setup_sanitize_files()

    IPyNbFile.setup = setup

    plain = IPyNbCell.sanitize

    def sanitize(cell, output):
        """Measured values come as a dictionary; figures as text, with their pictures taken out."""
        return Printed(plain(cell, output if isinstance(output, str) else json.dumps(output, sort_keys=True)))

    IPyNbCell.sanitize = sanitize
