"""Memory kept between the steps of a computation: no page is asked for twice, and all is given back."""

import ctypes
import resource
import types

import pytest
import torch

from rlnlib import _memory

BYTES = 2**27
PAGES = BYTES // resource.getpagesize()

if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
    pytest.skip("not the GNU C library", allow_module_level=True)


def faults(steps: int) -> int:
    """Pages that the system had to bring while so many large blocks were made and freed, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.empty(BYTES // 4).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


def test_blocks_are_used_again_and_given_back():
    assert faults(4) > 3 * PAGES  # without
    before = resident()
    with _memory.kept():
        faults(1)
        with _memory.kept():
            assert faults(4) < PAGES / 4
        assert faults(4) < PAGES / 4  # the inner context's end is not the outer one's
        assert resident() > before + PAGES / 2
    assert resident() < before + PAGES / 4
    assert faults(4) > 3 * PAGES


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace())
    with _memory.kept():
        assert _memory._users == 0
