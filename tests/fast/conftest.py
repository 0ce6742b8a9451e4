"""What is there for speed is tested whatever RLN_PLAIN says outside; a test that wants the plain twin asks for it."""

import pytest


@pytest.fixture(autouse=True)
def fast_parts(monkeypatch):
    monkeypatch.setenv("RLN_PLAIN", "0")
