"""A file is there whole or not at all: written under a name of its own, then renamed."""

from __future__ import annotations

import importlib.resources
import os
import re
import socket
import uuid
import zlib
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path, content: bytes) -> None:
    """Write ``content`` under ``path``. At any moment the former file or the new one is there, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def replacing(path):
    """Yield a partial path beside ``path``; the file written there replaces ``path`` at the end.

    After an error the partial file is removed, and ``path`` stays as it was. A killed process cannot remove its
    partial file; since the name says which process it was, the next writer in that folder does.
    """
    path = Path(path)
    _remove_left_overs(path.parent)
    partial = path.with_name(f"{path.name[:40]}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        with open(partial, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def writing(path):
    """Where the system refuses to write, add to its error which file it was, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by this library, with its own sentence
            raise
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror or error}). Nothing is lost: make room or choose a folder "
            f"that can be written, and run the same command again",
        ) from error


@contextmanager
def locked(folder):
    """Hold a folder for this process alone; a process that is killed lets go of it.

    Raises OSError where another one holds it.
    """
    try:
        import fcntl

        lock = os.fdopen(os.open(Path(folder) / ".lock", os.O_RDWR | os.O_CREAT, 0o666), "rb")
    except (ImportError, OSError):  # Windows; a folder that can only be read, where nothing will be written
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"Another process works in {folder}: wait for its end, or choose another folder.") from error
        except OSError:  # a file system without locks
            pass
        yield


def resource(name: str) -> Path:
    """Return where something that comes with the package lies: "pretrained", or "sample_16.h5".

    A wheel has it in the package; a checkout, also one that is installed in place, in its ``data`` folder.
    """
    checkout = Path(__file__).resolve().parent.parent / "data" / name
    return checkout if checkout.exists() else Path(str(importlib.resources.files("rlnlib") / "data" / name))


def _machine() -> str:
    """Name the machine, and on Linux the container: only within it does a number name one process."""
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:
        processes = ""
    return f"{zlib.crc32(f'{socket.gethostname()} {processes}'.encode()):08x}"


def differences(there: dict, wanted: dict) -> str:
    """Name what differs. Shape: two nested dicts -> "contrast 50.0 there, 10.0 here; ..."."""
    words = []
    for key in [*there, *(key for key in wanted if key not in there)]:
        one, other = there.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            words += [f"{key}: {differences(one, other)}"] if one != other else []
        elif one != other:
            words.append(f"{key} {one} there, {other} here")
    return "; ".join(words)


def _remove_left_overs(folder: Path) -> None:
    """Remove the partial files of processes of this machine that are gone."""
    if os.name != "posix" or not folder.is_dir():  # elsewhere os.kill ends the process that it asks about
        return
    for file in os.scandir(folder):
        if named := re.fullmatch(rf".*\.{_machine()}-(\d+)-[0-9a-f]{{8}}\.partial", file.name):
            try:
                os.kill(int(named[1]), 0)  # signal 0 asks only whether the process is there
            except ProcessLookupError:
                Path(file).unlink(missing_ok=True)
            except OSError:  # another user's process
                pass
