"""How a program of ours lets its steps hand their memory on to each other; the library leaves every process as it is.

The GNU C library gives large blocks back to the system as soon as they are free, and the system fills the next ones
with zeros page by page. That takes a network two fifths of its CPU time at 64^3 and an eighth at 31^3; to keep the
blocks takes a quarter more memory at the peak. The variables are read when a process starts.
"""

from __future__ import annotations

import os
import sys

#: Threads that sleep while they wait, and memory that stays with the process. Other C libraries take no notice.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}


def restart_with_environment() -> None:
    """Start the running program again in :data:`ENVIRONMENT`, in the same process; return where that was done before.

    For the first line of a program's ``main``; variables that are set already keep their values.
    """
    if missing := {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}:
        os.environ.update(missing)
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
