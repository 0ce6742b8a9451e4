"""What is there for speed: each part has a plain twin in the core, and is tested equal to it.

The fast parts serve CPUs. A GPU runs the plain twins, and so does a CPU where the environment variable ``RLN_PLAIN`` is
1. The variable is read at each call, so that a test, or a doubt, can switch within one process.

Two more things help a program on a CPU. They are settings of the whole process, so the library leaves them to whoever
starts it:

- ``OMP_WAIT_POLICY=passive``: torch's threads sleep while they wait. A network on two threads of a busy machine
  needs it.
- ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647`` (GNU C library): large blocks are used again, in place of
  pages that the system fills with zeros each time. A network takes 0.8 of the time at 31^3, 0.6 at 64^3.
"""

from __future__ import annotations

import importlib
import os

import torch

#: Submodules that are imported when they are first used: numba alone takes 0.4 s.
_LAZY = ("convolutions", "cores", "elements", "loops", "memory", "transforms")


def use(device: torch.device | str) -> bool:
    """Whether the fast parts serve tensors on ``device``; else the plain twin does.

    Args:
        device: Where the tensors are.

    Returns:
        True for a CPU, unless ``RLN_PLAIN=1`` asks for the plain twins everywhere.
    """
    kind = device.type if isinstance(device, torch.device) else torch.device(device).type
    return kind == "cpu" and os.environ.get("RLN_PLAIN", "0") in ("", "0")


def __getattr__(name: str):
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
