"""The scores of the informed network: kept part by part, and put together."""

import json

import torch

import informed as experiment


def test_parts_are_put_together_and_the_test_cells_of_several_files_merged():
    flat = {"paper_test/0": {"10": 1}, "paper_test/1": {"50": 2}, "random/31/50": 3, "random/31/10": 4, "images": 5}
    assert experiment.nested(flat) == {
        "paper_test": {"10": 1, "50": 2}, "random": {"31": {"50": 3, "10": 4}}, "images": 5
    }  # fmt: skip


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
