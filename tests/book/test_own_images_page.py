"""The numbers on the page on images of one's own are those that the library gives."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rlnlib
from rlnlib import weight_files
from stored import ROOT

PAGE = (ROOT / "book" / "your_own_images.md").read_text(encoding="utf-8")


def test_the_table_of_pores_is_what_the_example_gives():
    (recipe,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S) if "1e-6, 0.3" in code]
    rows = re.findall(r"^\| (1e-\d) \| (\d+) \| ([\d.]+) \|$", PAGE, flags=re.M)
    assert len(rows) == 3
    for young, iterations, stress in rows:
        exec(recipe.replace("(1e-6, 0.3)", f"({young}, 0.3)"), names := {"rlnlib": rlnlib})
        assert names["solution"].effective_stress[0, 0] == pytest.approx(float(stress), abs=6e-6)
        assert abs(int(names["solution"].iterations[0]) - int(iterations)) <= 1
    assert "with 77 % solid" in PAGE and names["cell"].mean() == pytest.approx(0.77, abs=1e-3)


def test_a_field_goes_on_to_other_programs_with_its_axes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (recipe,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S) if "strain.mhd" in code]
    cell = rlnlib.generate_cells(1, 8, grain_size=(2, 3))[0][:, :6, :4]
    exec(recipe, names := {"rlnlib": rlnlib, "cell": cell})
    assert np.array_equal(np.load("strain.npy"), names["field"]) and names["field"].shape == (8, 6, 4)
    vtk = pytest.importorskip("vtkmodules.vtkIOImage")
    reader = vtk.vtkMetaImageReader()
    reader.SetFileName("strain.mhd")
    reader.Update()
    image = reader.GetOutput()
    assert image.GetDimensions() == (8, 6, 4)
    assert image.GetScalarComponentAsFloat(5, 1, 2, 0) == np.float32(names["field"][5, 1, 2])


def test_a_disc_has_the_error_that_the_page_says():
    words = " ".join(PAGE.split())
    disc, usual = re.search(r"at contrast 10 errs by ([\d.]+) % .*? on its test cells by ([\d.]+) %", words).groups()
    y, x = np.mgrid[:32, :32] - 15.5
    picture = x**2 + y**2 < 9**2
    cell = np.repeat(picture[:, :, None], 2, axis=2)
    predicted = rlnlib.predict_strain(rlnlib.load_pretrained("rln", 10), cell[None])
    error = rlnlib.mase(predicted, rlnlib.solve_strain(cell, 10).strain[:, 0].float())
    assert float(error) == pytest.approx(float(disc), abs=0.06)
    assert weight_files.pretrained_header("rln", 10)["metrics"]["mase_mean"] == pytest.approx(float(usual), abs=5e-3)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what a process took")
def test_reading_takes_no_more_memory_than_the_page_says(tmp_path):
    least, most = map(int, re.search(r"Reading takes (\d+) to (\d+) bytes a voxel", PAGE).groups())
    grains = np.random.default_rng(0).random((32, 32, 32)) < 0.5
    np.save(tmp_path / "large.npy", np.kron(grains, np.ones((8, 8, 8), np.uint8)).astype(np.uint8))
    np.save(tmp_path / "small.npy", grains[:8, :8, :8].astype(np.uint8))
    program = (
        "import re, warnings, rlnlib; warnings.simplefilter('ignore')\n"
        "used = lambda: 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "rlnlib.load_cell('small.npy'); before = used(); cell = rlnlib.load_cell('large.npy')\n"
        "print((used() - before) / cell.size)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert least - 1 <= float(done.stdout) <= most + 0.5
