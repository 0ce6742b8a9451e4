"""Cells side by side on the cores of a CPU, one thread a core.

torch's own threads spin while they wait for each other. On an idle machine they are fast; where another program wants a
core, a solve takes 10 times as long as with one thread (measured at 31^3). The threads here sleep while they wait.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from rlnlib import fast

#: Voxels taken together. CPU: half and twice as many take up to a tenth longer. GPU: fills it.
CHUNK_VOXELS = {"cpu": 2**17, "cuda": 2**23}

#: Fewer voxels than this are not worth a worker of their own: between short loops two wait for the interpreter's lock,
#: and 2 to 16 cells of 16^3 take up to 2.4 times as long as with one.
WORKER_VOXELS = 48_000

#: Fewer numbers of a field than this are not worth a thread of their own, which has to be woken and waited for.
_SHARE_VOXELS = 2**17

#: Where Linux says how many threads want a core.
_LOAD = Path("/proc/loadavg")

_here = threading.local()


def chunking(voxels: int, device: torch.device, limits: dict[str, int] | None = None) -> tuple[int, int]:
    """Choose how many cells to take together, and how many such chunks to work on side by side.

    Args:
        voxels: Voxels of one cell.
        device: Where the work is done.
        limits: Voxels taken together, by the type of the device; by default ``CHUNK_VOXELS``.

    Returns:
        The cells of a chunk, and the workers: on a CPU one for each of torch's threads, but one alone where a cell is
        so large that all cores share it.
    """
    limits = limits or CHUNK_VOXELS
    limit = limits.get(device.type, limits["cpu"])
    workers = torch.get_num_threads() if device.type == "cpu" and voxels < limit else 1
    return max(1, limit // voxels), workers


def idle(threads: int) -> int:
    """How many of so many threads find a core that no other program works on now; at least one.

    On a busy core a thread waits for its turn, and all others wait for it: two threads beside other programs may take
    longer than one. Linux says how many threads of all programs want a core; elsewhere all are taken.
    """
    try:
        wanting = int(_LOAD.read_text(encoding="ascii").split()[3].split("/")[0])
    except (OSError, ValueError, IndexError):
        return threads
    others = wanting - 1  # without the thread that asks
    return max(1, min(threads, (os.cpu_count() or threads) - others))


def map_on_cores(function: Callable, items: Sequence, workers: int) -> Iterator:
    """Yield ``function(item)`` for each item, in order, by ``workers`` threads that use one core each.

    The number of torch's threads is left as it was found, also where ``function`` raises or the caller abandons the
    rest.

    Args:
        function: Called in a thread of its own, so that what holds for one thread (``torch.no_grad``) is set inside.
        items: What to call it with.
        workers: Threads. With one worker, or one item, the calling thread works, with all of torch's threads.
    """
    if workers == 1 or len(items) == 1:
        yield from map(function, items)
        return
    found = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(function, items)
    finally:
        torch.set_num_threads(found)  # each worker has set what new threads start with, too


@contextlib.contextmanager
def one_thread_of_torch(device: torch.device, threads: int) -> Iterator[None]:
    """Keep torch to one thread, and let :func:`split` use ``threads`` sleeping ones in its place.

    Only where the fast parts serve ``device``: the plain twins are torch's own, and keep its threads.
    """
    if not fast.use(device):
        yield
        return
    found, before = torch.get_num_threads(), getattr(_here, "pool", None)
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            _here.pool = (pool, threads)
            yield
    finally:
        _here.pool = before
        torch.set_num_threads(found)


def sharing(voxels: int) -> int:
    """How many threads :func:`split` uses for so many voxels."""
    _, threads = getattr(_here, "pool", None) or (None, 1)
    return max(1, min(threads, voxels // _SHARE_VOXELS))


def split(work: Callable[[int, int], object], items: int, voxels: int) -> None:
    """Call ``work(start, stop)`` for consecutive shares of ``range(items)``, side by side.

    Args:
        work: Releases the interpreter's lock while it works.
        items: What is shared out.
        voxels: How much work that is in all.
    """
    threads = min(sharing(voxels), items)
    if threads <= 1:
        work(0, items)
        return
    bounds = [items * k // threads for k in range(threads + 1)]
    list(_here.pool[0].map(work, bounds[:-1], bounds[1:]))


# The threads of OpenMP do not live on in a forked process, where torch would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
