"""Where the book's files are, what `_toc.yml` lists, where the repository is published, and who builds just now."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"


class Failure(Exception):
    """Ends a command with one sentence."""


def read_yaml(path: Path, kind: type = dict):
    """The content of a YAML file, UTF-8. Raises Failure where it cannot be read, or is no ``kind``."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Failure(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.") from error
    content = kind() if content is None else content
    if not isinstance(content, kind):
        wanted = {dict: "names with values, such as `cell_size: 21`", list: "a list"}[kind]
        raise Failure(f"{path} must hold {wanted}, not {content!r:.80}.")
    return content


def contents() -> list[str]:
    """The entries of `_toc.yml` in reading order, the first page at their head, without endings."""
    table = read_yaml(ROOT / "_toc.yml")
    return [table["root"], *(chapter["file"] for part in table["parts"] for chapter in part["chapters"])]


def notebooks() -> list[Path]:
    """The notebooks of the table of contents, in its order. Raises Failure for one that does not exist."""
    found = [ROOT / f"{entry}.ipynb" for entry in contents() if entry.startswith("notebooks/")]
    if missing := [path.name for path in found if not path.exists()]:
        raise Failure(f"_toc.yml lists notebooks that do not exist: {', '.join(missing)}.")
    return found


def repository() -> str | None:
    """The book's address on GitHub: RLN_REPOSITORY, else the git remote ``origin``; None where there is neither.

    Raises Failure for an RLN_REPOSITORY that is no such address.
    """
    pattern = r"(?:https://github\.com/|git@github\.com:)([\w.-]+/[\w.-]+?)(?:\.git)?/?"
    given = os.environ.get("RLN_REPOSITORY", "").strip()
    git = ["git", "-C", str(ROOT), "config", "--get", "remote.origin.url"]
    address = given or subprocess.run(git, capture_output=True, text=True).stdout.strip()
    found = re.fullmatch(pattern, address)
    if given and not found:
        raise Failure(f"RLN_REPOSITORY must be an address such as https://github.com/owner/name, not {given!r}.")
    return f"https://github.com/{found[1]}" if found else None


@contextlib.contextmanager
def one_at_a_time():
    """Hold ``build/`` for this process. Raises Failure where another one holds it: both would write the same files."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"Another build is at work in {BUILD}: wait until it has ended.") from None
        yield
