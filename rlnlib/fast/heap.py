"""Memory that the steps of a long computation on a CPU hand on to each other.

The GNU C library gives large blocks back to the system as soon as they are free, and the system fills the next one with
zeros page by page. That took two fifths of a network's time at 128^3 and a fifth at 31^3. Other C libraries are left
alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # the numbers of mallopt(3)
#: Bytes at the end of the heap that stay with the process, so that a loop over small cells need not ask for them in
#: each call; free pages before them go back all the same.
_REMAINS = 2**28
_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def kept():
    """Blocks that are freed while the context lasts are used again, in all threads; then the system gets them back."""
    global _users
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    with _lock:
        _users += 1
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                # Where the library's own rule, which mallopt ends, stops for programs with large blocks.
                library.mallopt(_MMAP_MAX, 65536)
                library.mallopt(_MMAP_THRESHOLD, 2**25)
                library.mallopt(_TRIM_THRESHOLD, 2**26)
                library.malloc_trim(ctypes.c_size_t(_REMAINS))
