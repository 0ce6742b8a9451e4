"""The stored notebooks, as the tests of the book read them."""

from pathlib import Path

import nbformat
import pytest

import project

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = project.notebooks()
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path, kind="code"):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def tagged(path, tag):
    return [cell for cell in cells_of(path) if tag in cell.metadata.get("tags", [])]
