"""What the first cells of every notebook do: seed, find the device, say what the page was made with."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from IPython.display import Markdown, display

from rlnlib import _checks, weight_files
from rlnlib._version import __version__
from rlnlib.book import figures
from rlnlib.book.parameters import PARAMETERS
from rlnlib.provenance import current_commit

#: Source of the first code cell of every notebook: nothing happens where the library is there. Where it is not, as in
#: Colab, its repository is fetched, and `tools/colab.py` there installs what is missing. Git says why, if it cannot.
BOOTSTRAP = """\
import importlib.util, os, runpy, subprocess  # noqa: E401, I001
if importlib.util.find_spec("rlnlib") is None:  # fetch it, as in Colab
    address = os.environ.get("RLN_REPOSITORY") or REPOSITORY
    subprocess.run(["git", "clone", "-q", "--depth", "1", address, "rln-book"])
    assert os.path.exists("rln-book"), "No rlnlib: set RLN_REPOSITORY to its address."
    runpy.run_path("rln-book/tools/colab.py")"""


def bootstrap(repository: str = "") -> str:
    """Source of the bootstrap cell for a repository's address; without one, the cell asks for it in one sentence."""
    return BOOTSTRAP.replace("REPOSITORY\n", f'"{repository}"\n', 1)


def start(seed: int = 0, device: str = "auto") -> torch.device:
    """Seed Python, NumPy and torch, choose the device, and show the provenance line; returns the device.

    ``device`` is "auto" (a GPU if there is one), "cpu" or "cuda".
    Raises ValueError for a seed below 0, an unknown device, or "cuda" where there is none.
    """
    seed = _checks.positive_integer("seed", seed, least=0)
    _checks.one_of("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError('device is "cuda", but torch finds no GPU here: use "auto" or "cpu".')
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    display(Markdown(f"*{provenance(chosen)}, seed {seed}.*"))
    return chosen


def check(*, shipped: bool = False, **parameters) -> None:
    """Stop in the first cell if a parameter cannot be used: ``check(cell_size=cell_size, contrast=contrast)``.

    Each is held against its line in :data:`rlnlib.book.parameters.PARAMETERS`; numbers with whole limits must be whole.
    ``cell_file`` must be empty or be there, grains must fit into the cell, and ``n_cells`` must be a multiple of
    ``repeats``, where both are given. With ``shipped``, ``contrast`` must be one that networks are shipped for.
    Raises ValueError with one sentence that says what was expected and what came, and for a name without a line.
    """
    for name, value in parameters.items():
        if name == "cell_file":
            if not isinstance(value, str) or (value and not Path(value).exists()):
                raise ValueError(f"cell_file must be empty or name what is there, not {value!r}: change the parameter.")
            continue
        if name not in PARAMETERS:
            raise ValueError(f"There is no rule for {name!r}: write one in rlnlib.book.parameters.")
        allowed = PARAMETERS[name].allowed
        if not allowed:
            continue
        if isinstance(allowed[0], str):
            _checks.one_of(name, value, allowed)
            continue
        least, greatest = allowed
        whole = isinstance(least, int)
        kinds = (int, np.integer) if whole else (int, float, np.number)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= greatest:
            kind = "a whole number" if whole else "a number"
            raise ValueError(
                f"{name} must be {kind} from {least:g} to {greatest:g}, not {value!r}: change the parameter."
            )
    for grain in ("grain_size", "largest_grain"):
        for size in ("cell_size", "sample_size"):
            if parameters.get(grain, 0) > parameters.get(size, np.inf):
                raise ValueError(
                    f"{grain} must not exceed {size}, which is {parameters[size]}; it is {parameters[grain]}: "
                    f"change one of them."
                )
    if parameters.get("n_cells", 0) % parameters.get("repeats", 1):
        raise ValueError(
            f"n_cells must be a multiple of repeats, which is {parameters['repeats']}; it is {parameters['n_cells']}: "
            f"change one of them."
        )
    if shipped and parameters.get("contrast") not in (ratios := sorted({ratio for _, ratio in weight_files.shipped()})):
        raise ValueError(
            f"contrast must be {' or '.join(f'{ratio:g}' for ratio in ratios)}, for which networks are shipped, not "
            f"{parameters.get('contrast')!r}: change the parameter."
        )


def missed(what: str, difference, limit: float) -> None:
    """Print by how much a statement is missed, the largest absolute value of ``difference``, as a power of ten.

    Raises AssertionError where that is more than ``limit``, or not a number.
    """
    size = _within(what, difference, limit)
    print(f"{what}: missed by {size:.0e}" if size else f"{what}: missed by 0")


def agreement(identities: Sequence[tuple], caption: str) -> None:
    """Show a table of identities, and to what their two sides agree: (identity, difference of the sides, limit) each.

    The table has the limit, which is the same on every machine, and not what rounding left on this one.
    Raises AssertionError where the largest absolute value of a difference is more than its limit, or not a number.
    """
    for identity in identities:
        _within(*identity)
    rows = [[what, f"{limit:.2g}" if limit else "every digit"] for what, _, limit in identities]
    figures.table(["identity", "both sides agree to"], rows, caption)


def _within(what: str, difference, limit: float) -> float:
    """The largest absolute value of a difference. Raises AssertionError where it is more than the limit, or NaN."""
    size = float(torch.as_tensor(difference).detach().abs().max())
    assert size <= limit, f"{what}: missed by {size:.1e}, which is more than {limit:.0e}."
    return size


def provenance(device: torch.device) -> str:
    """Library version and commit, profile, device and torch version, in one line."""
    made_with = [f"rlnlib {__version__}"]
    if commit := current_commit():
        made_with.append(f"commit {commit}")
    if profile := os.environ.get("RLN_PROFILE"):
        made_with.append(f"profile {profile}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return ", ".join([*made_with, name, f"torch {torch.__version__}"])
