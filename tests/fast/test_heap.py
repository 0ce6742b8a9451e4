"""Memory that the steps of a computation hand on: few pages are asked for twice, and the system gets them back."""

import ctypes
import json
import resource
import subprocess
import sys
import types

import pytest
import torch

from rlnlib.fast import heap

if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
    pytest.skip("not the GNU C library", allow_module_level=True)

#: Pages that the system brings for a second prediction: without the context, alone, and inside another one. In a
#: process of its own, since the C library does not forget the rules that it was given.
FAULTS = """
import contextlib, json, resource, torch, rlnlib
from rlnlib.fast import heap
model, cell = rlnlib.RLN(**rlnlib.rln.KINDS["rln-t"]), torch.rand(1, 64, 64, 64) < 0.5

def faults():
    rlnlib.predict_strain(model, cell)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    rlnlib.predict_strain(model, cell)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept, heap.kept = heap.kept, contextlib.nullcontext
found = [faults()]
heap.kept = kept
found.append(faults())
with kept():
    found.append(faults())
print(json.dumps(found))
"""


def test_the_steps_of_a_network_use_the_same_pages():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    without, alone, inside = json.loads(done.stdout)
    assert alone < without / 2  # the first steps of each call ask for pages
    assert inside < alone / 2  # an inner context's end is not the outer one's


def resident() -> int:
    """Bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_the_system_gets_back_what_is_more_than_a_small_cell_needs():
    before, much = resident(), 3 * heap._REMAINS
    with heap.kept():
        torch.empty(much // 4).fill_(1.0)
        assert resident() > before + 0.9 * much
    assert resident() < before + 1.1 * heap._REMAINS


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_another_c_library_is_left_alone(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace())
    with heap.kept():
        assert heap._users == 0
