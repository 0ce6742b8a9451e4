"""The package as a user installs it: built, put into an empty folder, and used from there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USE = """
import rlnlib
from rlnlib import dataset, weight_files
from rlnlib._files import resource
assert "site" in rlnlib.__file__, rlnlib.__file__
cells = rlnlib.generate_cells(1, size=10)
for entry in weight_files.catalogue():
    model = rlnlib.load_pretrained(entry["kind"], entry["contrast"], entry["size"])
    assert entry["kind"] == "informed" or rlnlib.predict_strain(model, cells).shape == (1, 10, 10, 10)
informed = rlnlib.load_pretrained("informed")
assert rlnlib.predict(informed, cells, contrast=25).strain.shape == (1, 6, 10, 10, 10)
assert len(dataset.StrainDataset(resource("sample_16.h5"))) == 40
print("loaded", len(weight_files.catalogue()), "from", weight_files.PRETRAINED)
"""


def run(*words, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_brings_the_weights_and_the_sample(tmp_path):
    """Built and installed without the network."""
    source = tmp_path / "source"
    for name in ("rlnlib", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 25e6
    run(*pip, "install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "RLN_PLAIN": "1"}  # nothing to compile
    assert "loaded" in run(sys.executable, "-c", USE, cwd=tmp_path, env=environment)
