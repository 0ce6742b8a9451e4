"""Make and mend the virtual environment ``.venv`` that ``make`` works in. Needs nothing but Python 3.10 with venv.

A stamp, written last, says what was installed; without it, or with another one, the packages are installed (again).
With it, every file of every package is looked up, so that a damaged environment is mended before it fails.
"""

from __future__ import print_function  # so that an old Python reaches the sentence below

import hashlib
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "rlnlib-installed")
#: Run inside the environment: prints the packages with files that are missing or of another size than recorded.
AUDIT = """
import importlib.metadata as m, os
for d in m.distributions():
    files = [f for f in (d.files or []) if f.suffix != ".pyc"]
    if not files or any(not os.path.exists(f.locate()) or (f.size is not None and os.path.getsize(f.locate()) != f.size)
                        for f in files):
        print(d.metadata["Name"] or d._path)
"""


def stamp():
    content = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt", os.path.join("tools", "install.py")):
        with open(os.path.join(ROOT, name), "rb") as file:
            content.update(file.read())
    content.update(("%d.%d" % sys.version_info[:2]).encode())
    return content.hexdigest()


def is_current():
    try:
        with open(STAMP) as file:
            return file.read() == stamp() and subprocess.call([PYTHON, "-c", ""]) == 0
    except (OSError, ValueError):
        return False


def pip(*arguments):
    # PIP_ARGUMENTS takes what a machine needs, for instance --extra-index-url for a CPU build of torch.
    extra = os.environ.get("PIP_ARGUMENTS", "").split()
    command = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "-q", "-q"]
    constraints = os.path.join(ROOT, "constraints.txt")
    return subprocess.call(command + ["-c", constraints] + extra + list(arguments), cwd=ROOT) == 0


def damaged():
    """The packages that are broken; None where one is missing or nothing can be said."""
    run = subprocess.run([PYTHON, "-c", AUDIT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    whole = subprocess.call([PYTHON, "-m", "pip", "check", "-q"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return run.stdout.decode().split() if run.returncode == 0 and whole == 0 else None


def build():
    print("Installing into .venv; this takes some minutes.", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    if subprocess.call([sys.executable, "-m", "venv", VENV]) != 0:
        sys.exit("Python cannot make virtual environments here: install its venv module (on Debian, python3-venv).")
    if not pip("-e", ".[book,test]"):
        sys.exit(
            "The packages could not be installed: see pip's message above; the network or the disk may be at fault."
        )


def main():
    if sys.version_info < (3, 10):
        sys.exit(
            "Python %d.%d is too old: Python 3.10 or newer is needed; name one with make PYTHON=/path/to/python."
            % sys.version_info[:2]
        )
    if not is_current():
        build()
    else:
        broken = damaged()
        if broken is None:
            print("Packages are missing from .venv.", flush=True)
            build()
        elif broken:
            print("Mending .venv: %s." % ", ".join(broken), flush=True)
            if not pip("--force-reinstall", "--no-deps", *broken) or damaged():
                build()
    with open(STAMP + ".partial", "w") as file:
        file.write(stamp())
    os.replace(STAMP + ".partial", STAMP)


if __name__ == "__main__":
    main()
