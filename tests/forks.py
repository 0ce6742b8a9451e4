"""Calls in a copy of this process, which need not load torch and Fabric again: that takes seconds."""

import multiprocessing
import os
import sys

import lightning_fabric  # noqa: F401


def begin(function, *arguments, **environment):
    """Call a function in a copy of this process, in which these variables of the environment are set."""

    def call():
        os.environ.update(environment)
        sys.exit(function(*arguments))

    process = multiprocessing.get_context("fork").Process(target=call, daemon=True)
    process.start()
    return process


def ended(process, seconds=120):
    """The exit code of a process that ends by itself within so many seconds; None for one that had to be killed."""
    process.join(seconds)
    code = process.exitcode
    process.kill()
    return code
