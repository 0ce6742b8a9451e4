"""The scores of the informed network: kept part by part, and put together."""

import json

import numpy as np
import pytest
import tifffile
import torch

import informed as experiment
import rlnlib


def test_parts_are_put_together():
    flat = {"paper_test/10": 1, "paper_test/50": 2, "random/31/50": 3, "random/31/10": 4, "seconds": 5}
    assert experiment.nested(flat) == {
        "paper_test": {"10": 1, "50": 2}, "random": {"31": {"50": 3, "10": 4}}, "seconds": 5
    }  # fmt: skip


def test_a_scan_is_cut_at_a_grey_value_and_scored(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (8, 8, 8)).astype(np.uint8)
    grey[0, 0, :2] = 89, 90
    tifffile.imwrite(tmp_path / "scan.tif", grey)
    found = experiment.on_scan(rlnlib.load_pretrained("informed"), tmp_path / "scan.tif", 90)
    assert found["stiff_fraction"] == pytest.approx((grey >= 90).mean(), rel=1e-3) and found["size"] == [8, 8, 8]
    assert 0 < found["10"]["mase"] < found["50"]["mase"] and found["50"]["violations"] == 0
    assert found["10"] == {**found["10"], **experiment.on_image(
        rlnlib.load_pretrained("informed"), torch.from_numpy(grey >= 90))["10"]}  # fmt: skip


def test_cells_of_the_paper_s_test_set_are_drawn_and_solved():
    model = rlnlib.load_pretrained("informed")
    few, more = (experiment.on_test_set(model, 10.0, count) for count in (2, 3))
    assert few["of"] == 8192 and (few["cells"], more["cells"]) == (2, 3)
    assert 0.1 < few["mase"]["mean"] < 5


def test_steps_are_followed_on_cells_of_the_test_set():
    found = experiment.by_application_on_test_set(rlnlib.load_pretrained("informed"), 10.0, 2, together=1)
    steps = {way: len(found[way]["mase"]) for way in found["standard_errors"]}
    of_network, of_twelve = ("network", "in turn"), ("continued", "guaranteed", "conjugate_gradient")
    assert steps == {**dict.fromkeys(of_network, 5), **dict.fromkeys(of_twelve, 12)} and found["cells"] == 2
    assert found["guaranteed"]["mase"][2] < found["conjugate_gradient"]["mase"][2]
    assert found["continued"]["mase"][-1] < found["network"]["mase"][-1] / 100
    assert all(0 < error < 5 for error in found["standard_errors"]["network"])


def test_the_third_network_goes_on_to_propose_and_does_better_than_those_behind_it():
    model = rlnlib.load_pretrained("informed")
    found = experiment.guaranteed_on_test_set(model, 50.0, 2)
    followed = experiment.by_application_on_test_set(model, 50.0, 2, together=1)
    assert found["of"] == 8192 and found["5"]["mean"] == pytest.approx(followed["guaranteed"]["mase"][4], rel=1e-2)
    assert found["6"]["mean"] < found["5"]["mean"] < followed["in turn"]["mase"][4]
    assert followed["guaranteed"]["mase"][:3] == followed["in turn"]["mase"][:3]


def test_an_image_like_a_scan_is_not_periodic_and_has_wrong_voxels():
    image = experiment.ct_like(24).float()
    inner = (image[:, 1:] - image[:, :-1]).abs().mean()
    seam = (image[:, 0] - image[:, -1]).abs().mean()
    assert 0.25 < float(image.mean()) < 0.55 and float(seam) > 1.5 * float(inner)
    around = torch.nn.functional.avg_pool3d(image[:, None], 3, stride=1)[:, 0] * 27 - image[:, 1:-1, 1:-1, 1:-1]
    assert bool(((around <= 2) & (image[:, 1:-1, 1:-1, 1:-1] == 1)).any())


def test_a_run_that_was_cut_off_goes_on_with_what_is_left(tmp_path, monkeypatch):
    command = ["informed.py", "--cells", "8", "--sizes", "8", "--contrasts", "10", "--high", "300", "--iterations", "2"]
    command += ["--folder", str(tmp_path), "--out", str(tmp_path / "record.json"), "--parts"]
    records = []
    for parts in ("random", "by_application"):
        monkeypatch.setattr("sys.argv", [*command, parts])
        experiment.main()
        records.append(json.loads((tmp_path / "record.json").read_text()))
    first, second = records
    assert "random/8/10" not in first["left"] and "by_application/300" in first["left"]
    assert second["random"] == first["random"] and set(second["by_application"]) == {"10", "300"}
    assert first["random"]["8"]["10"]["cells"] == 8 and len(second["weights"]["sha256"]) == 64
