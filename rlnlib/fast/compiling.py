"""How the loops of this room are compiled: by numba, for one thread each, and kept on disk."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numba

#: What loops may have compiled into them from another file than their own, which is all that numba looks at.
_VECTORS = Path(__file__).with_name("_vectors.py")


def _warn_of_no_cache(reason: Exception) -> None:
    warnings.warn(
        f"numba cannot keep the compiled loops ({reason}). They are compiled again in each process, which takes some "
        "seconds. Set NUMBA_CACHE_DIR to a folder that can be written.",
        RuntimeWarning,
        stacklevel=2,
    )


class Compiler:
    """``numba.njit`` with a cache on disk, and without one where there is no place for it."""

    cached = True  # of all functions, so that one warning says it

    def __init__(self, fastmath: set[str], **options):
        self.options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, **options}

    def __call__(self, function) -> Any:
        if Compiler.cached:
            try:
                compiled = numba.njit(cache=True, **self.options)(function)
            except RuntimeError as error:  # "no locator available": neither this folder nor the user's can be written
                self.give_up(error)
            else:
                kept, vectors = compiled._cache._cache_file, os.stat(_VECTORS)
                kept._source_stamp = (kept._source_stamp, vectors.st_mtime, vectors.st_size)
                save = compiled._cache.save_overload

                def save_if_possible(*overload):
                    try:
                        save(*overload)
                    except OSError as error:  # a full disk, or a quota
                        self.give_up(error)

                compiled._cache.save_overload = save_if_possible
                return compiled
        return numba.njit(**self.options)(function)

    @staticmethod
    def give_up(reason: Exception) -> None:
        if Compiler.cached:
            Compiler.cached = False
            _warn_of_no_cache(reason)


compiled = Compiler({"contract"})
#: The same as a part of each loop that calls it: vectors that it takes or returns stay in registers.
inlined = Compiler({"contract"}, forceinline=True)
#: Products and sums rounded one by one, as torch does, so that the plain twin has the same bits.
compiled_exact = Compiler(set())
#: Sums in an order that suits the processor's vectors; the same order at each call.
compiled_sum = Compiler({"contract", "reassoc"})
