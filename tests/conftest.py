"""Reference data from outside: present if RLN_REFERENCE_DATA names their folder, else those tests are skipped."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def reference_data() -> Path:
    folder = os.environ.get("RLN_REFERENCE_DATA")
    if not folder:
        pytest.skip("RLN_REFERENCE_DATA is not set: no reference data to compare with")
    if not Path(folder).is_dir():
        pytest.fail(f"RLN_REFERENCE_DATA names {folder}, which is no folder")
    return Path(folder)


@pytest.fixture(autouse=True)
def threads_as_found():
    """A script that is run in this process gives torch all cores; the next test finds as many threads as before."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(params=["fast", "plain"])
def twin(request, monkeypatch) -> str:
    """Run a test with what is there for speed, and with the plain twins that a GPU runs."""
    monkeypatch.setenv("RLN_PLAIN", "1" if request.param == "plain" else "0")
    return request.param


@pytest.fixture
def random_cells():
    """Batches of random two-phase cells, independent of the library's generator. Shape: -> (B, N1, N2, N3) bool."""

    def make(batch, *shape, fraction=0.5, seed=0):
        generator = torch.Generator().manual_seed(seed)
        cells = torch.rand(batch, *shape, generator=generator) < fraction
        cells[:, 0, 0, 0], cells[:, -1, -1, -1] = True, False
        return cells

    return make
