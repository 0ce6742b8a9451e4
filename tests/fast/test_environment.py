"""The environment in which programs of this project run: set once, before the C library reads it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from rlnlib.fast.environment import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, os, sys
from environment import ENVIRONMENT, restart_with_environment
restart_with_environment()
print(json.dumps([os.getpid(), sys.argv[1:], {name: os.environ.get(name) for name in ENVIRONMENT}]))
"""


def run(tmp_path, **given):
    """The program's process, arguments and environment as it prints them; and the process that was started."""
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    environment |= {"PYTHONPATH": str(ROOT / "rlnlib" / "fast"), **given}  # the module without the library and torch
    command = [sys.executable, "-X", "utf8", "program.py", "--out", "a b"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as process:
        return process.pid, json.loads(process.communicate()[0])


def test_a_program_starts_again_in_its_environment_with_its_arguments(tmp_path):
    pid, found = run(tmp_path)
    assert found == [pid, ["--out", "a b"], ENVIRONMENT]


def test_what_the_user_has_set_stays(tmp_path):
    _, (_, _, environment) = run(tmp_path, MALLOC_TOP_PAD_="1")
    assert environment == {**ENVIRONMENT, "MALLOC_TOP_PAD_": "1"}


def test_make_sets_the_same_values():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    for name, value in ENVIRONMENT.items():
        assert f"export {name} ?= {value}" in lines
