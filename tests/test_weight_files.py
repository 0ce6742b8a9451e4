import functools
import json
import os
import re
import shutil
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

import rlnlib
from rlnlib import weight_files
from rlnlib.rln import KINDS, RLN


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = RLN(**KINDS["fln"])
    weight_files.save_weights(tmp_path / "fln.safetensors", model, metrics={"mase": 1.5}, recipe={"epochs": 2})
    return tmp_path / "fln.safetensors", model


def test_weights_come_back_with_everything_about_them(weights):
    path, model = weights
    loaded = weight_files.load_weights(path)
    assert not loaded.training and loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    header = weight_files.read_header(path)
    assert header["metrics"] == {"mase": 1.5} and header["library_version"] == rlnlib.__version__


def test_the_error_for_a_file_or_without_a_contrast_says_what_to_call(weights):
    with pytest.raises(ValueError, match=r"rlnlib\.weight_files\.load_weights reads .*fln\.safetensors"):
        rlnlib.load_pretrained(weights[0])
    with pytest.raises(ValueError, match=r"No rln is shipped for contrast None .* shipped: contrast 10.* Name one of"):
        rlnlib.load_pretrained("rln")


def test_damaged_and_missing_weights_are_named(weights):
    path, _ = weights
    with pytest.raises(FileNotFoundError, match="absent"):
        weight_files.load_weights(path.with_name("absent.safetensors"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OSError, match="not a readable weight file"):
        weight_files.load_weights(path)


def header_of(path, **changes):
    """Write the file again with other words in its header."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        words = {**file.metadata(), **{key: json.dumps(value) for key, value in changes.items()}}
    path.write_bytes(save(tensors, words))


@pytest.mark.parametrize(
    "config",
    [
        None,
        [],
        {},
        {"passes": 1, "tied": False, "history": 2, "colour": "red"},
        {"passes": 1, "tied": False, "history": 2, "proximal": "unet"},
        {"passes": 1, "tied": False, "history": 2, "proximal": ["vnet"]},
        {"passes": 1, "tied": False, "history": 2, "proximal": "three-layer"},
        {"passes": 2, "tied": False, "history": 2},
        {"passes": 1000, "tied": False, "history": 2},
        {"passes": 10**9, "tied": False, "history": 2},
        {"passes": 10**9, "tied": True, "history": 2},
        {"passes": "1", "tied": False, "history": 2},
        {"passes": 1, "tied": "no", "history": 2},
        {"passes": 1, "tied": False, "history": 10**6},
    ],
    ids=str,
)
def test_weights_with_a_header_that_is_none_or_of_another_network_are_refused_at_once(config, weights):
    path, _ = weights
    header_of(path, config=config)
    began = time.process_time()
    with pytest.raises(OSError, match=re.escape(str(path))):
        weight_files.load_weights(path)
    assert time.process_time() - began < 5


def test_a_module_that_a_file_names_is_not_imported(weights, tmp_path, monkeypatch):
    path, _ = weights
    (tmp_path / "harmful.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    header_of(path, config={"passes": 1, "tied": False, "history": 2, "proximal": "harmful:Net"})
    with pytest.raises(ValueError, match="the word of a file alone"):
        weight_files.load_weights(path)
    with pytest.raises(SystemExit, match="imported"):  # the trap works
        weight_files.load_weights(path, "harmful:Net")


def test_an_informed_network_of_a_file_has_no_module_imported(weights, tmp_path, monkeypatch):
    path, _ = weights
    (tmp_path / "harmful.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    header_of(path, family="informed", config={"passes": 1, "tied": False, "proximal": "harmful:Net"})
    with pytest.raises(ValueError, match="proximal must be one of"):
        weight_files.load_weights(path)


def test_each_family_of_networks_is_sent_to_its_own_function(random_cells):
    cells, informed = random_cells(1, 8, 8, 8), rlnlib.load_pretrained("informed")
    with pytest.raises(ValueError, match=r"call rlnlib\.predict"):
        rlnlib.predict_strain(informed, cells)
    with pytest.raises(ValueError, match=r"rlnlib\.predict_strain serves"):
        rlnlib.predict(rlnlib.load_pretrained("fln", 10), cells, 10)
    with pytest.raises(ValueError, match="leave contrast and size out"):
        rlnlib.load_pretrained("informed", size=31)
    with pytest.raises(ValueError, match="dtype must be"):
        rlnlib.predict(informed, cells, 10, network_dtype=torch.float64)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(value, weights):
    path, model = weights
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["proximals.0.begin.0.bias"][3] = value
    path.write_bytes(save(tensors, {"config": json.dumps(model.config)}))
    with pytest.raises(OSError, match=r"begin\.0\.bias .*NaN or infinity"):
        weight_files.load_weights(path)
    model.load_state_dict(tensors)
    with pytest.raises(ValueError, match="NaN or infinity"):
        weight_files.save_weights(path, model)


def test_what_json_cannot_hold_is_refused_and_spares_the_file(weights):
    path, model = weights
    before = path.read_bytes()
    for about in ({"metrics": {1, 2}}, {"metrics": float("nan")}):
        with pytest.raises(ValueError, match="header"):
            weight_files.save_weights(path, model, **about)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["[]", "{", '{"fln-10": 3}', '{"fln-10": {}}'])
def test_a_manifest_that_is_none_is_refused_in_words(content, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path)
    (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(OSError, match="not a list of shipped weights"):
        rlnlib.load_pretrained("fln", 10)


def test_a_failed_write_leaves_the_old_file(weights, monkeypatch):
    path, _ = weights
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        weight_files.write_atomically(path, b"half")
    assert path.read_bytes() == before


def test_every_shipped_model_loads_and_predicts(random_cells):
    assert weight_files.shipped()

    @functools.cache  # each problem is solved once for the three networks
    def problem(contrast, size):
        cells = rlnlib.generate_cells(6 if size == 16 else 2, size=size, seed=77)
        return cells, rlnlib.solve_strain(cells, contrast, rtol=1e-4, dtype=torch.float32).strain[:, 0]

    for entry in weight_files.catalogue():
        kind, contrast, size = entry["kind"], entry["contrast"], entry["size"]
        if contrast is None:
            assert kind == "informed" and isinstance(rlnlib.load_pretrained(kind), rlnlib.InformedRLN)
            continue
        cells, true = problem(contrast, size)
        model = rlnlib.load_pretrained(kind, contrast, size)
        header = weight_files.pretrained_header(kind, contrast, size)
        assert (header["kind"], header["contrast"], header["data"]["size"]) == (kind, contrast, size)
        error = rlnlib.mase(rlnlib.predict_strain(model, cells), true).mean()
        assert error < 2 * header["metrics"]["mase_mean"]  # few cells against thousands
        other = rlnlib.mase(rlnlib.predict_strain(model, ~cells), true).mean()
        assert other > 5 * header["metrics"]["mase_mean"]  # the phases exchanged


@pytest.mark.parametrize(("script", "count"), [("peaks", 6), ("small_then_large", 4)])
def test_records_are_those_of_the_shipped_weights(script, count):
    """After new weights were shipped, these benchmarks have to run again."""
    record = json.loads((weight_files.PRETRAINED.parent / "results" / f"{script}.json").read_text())
    manifest = json.loads((weight_files.PRETRAINED / "manifest.json").read_text())
    hashes = {name: digest for row in record["rows"] for name, digest in row["weights"].items()}
    assert len(hashes) == count
    assert hashes == {name: manifest[name]["sha256"] for name in hashes}


def test_the_catalogue_names_every_shipped_file_the_one_for_every_contrast_last():
    entries = weight_files.catalogue()
    files = {path.name for path in weight_files.PRETRAINED.glob("*.safetensors")}
    assert {entry["file"] for entry in entries} == files
    assert [entry["kind"] for entry in entries if entry["contrast"] is None] == [entries[-1]["kind"]] == ["informed"]
    assert "informed" not in dict(weight_files.shipped())


def test_a_shipped_file_that_was_changed_is_refused(tmp_path, monkeypatch):
    folder = shutil.copytree(weight_files.PRETRAINED, tmp_path / "pretrained")
    monkeypatch.setattr(weight_files, "PRETRAINED", folder)
    kind, contrast = weight_files.shipped()[0]
    file = folder / json.loads((folder / "manifest.json").read_text())[f"{kind}-{contrast:g}"]["file"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(OSError, match="hash"):
        rlnlib.load_pretrained(kind, contrast)


def test_a_library_without_its_repository_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path)
    with pytest.raises(OSError, match="install the library again"):
        rlnlib.load_pretrained("fln", 10)


def test_weights_for_two_sizes_of_cells_are_shipped_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path / "pretrained")
    for size in (16, 31):
        torch.manual_seed(size)
        path = tmp_path / "new.safetensors"
        weight_files.save_weights(path, RLN(**KINDS["fln"]), kind="fln", contrast=3.5, data={"size": size})
        weight_files.ship(path)
    assert weight_files.shipped() == weight_files.shipped(31) == [("fln", 3.5)] and weight_files.shipped(20) == []
    assert [entry["file"] for entry in weight_files.catalogue()] == ["fln-3.5.safetensors", "fln-3.5-31.safetensors"]
    small, large = (next(rlnlib.load_pretrained("fln", 3.5, **size).parameters()) for size in ({}, {"size": 31}))
    assert not torch.equal(small, large)
    assert weight_files.pretrained_header("fln", 3.5, size=31)["data"] == {"size": 31}
    with pytest.raises(ValueError, match=r"contrast 3\.5, size 31.*serves cells of other sizes"):
        rlnlib.load_pretrained("fln", 3.5, size=20)


def test_weights_that_do_not_say_what_they_are_for_are_not_shipped(tmp_path, monkeypatch, weights):
    monkeypatch.setattr(weight_files, "PRETRAINED", tmp_path / "pretrained")
    with pytest.raises(ValueError, match="has no 'kind'"):
        weight_files.ship(weights[0])
    assert not (tmp_path / "pretrained").exists()


def test_what_is_not_shipped_is_refused_with_what_is():
    with pytest.raises(ValueError, match=r"shipped: contrast 10, size 16; .* holds for one contrast"):
        rlnlib.load_pretrained("fln", 11)
    with pytest.raises(ValueError, match="'rln-t'"):
        rlnlib.load_pretrained("rnn", 10)
