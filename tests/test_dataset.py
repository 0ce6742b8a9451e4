import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import rlnlib
from rlnlib import dataset

SMALL = {"size": 6, "grain_size": (1, 4), "contrast": 10.0, "repeats": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return dataset.make_dataset(tmp_path_factory.mktemp("data") / "set.h5", 40, **SMALL)


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copy(made, tmp_path / "set.h5")


def content(path):
    with h5py.File(path) as file:
        return {name: field[:].tobytes() for name, field in file.items()}, dict(file.attrs)


def test_a_data_set_holds_the_cells_and_their_strains(made):
    stiff, strain = dataset.StrainDataset(made).tensors()
    cells = rlnlib.generate_cells(40, size=6, grain_size=(1, 4), repeats=2)
    assert np.array_equal(stiff.numpy().astype(bool), cells)
    exact = rlnlib.solve_strain(cells, 10.0, rtol=1e-10).strain[:, 0]
    assert rlnlib.mase(strain, exact).max() < 0.05
    assert strain.dtype == torch.float32
    with h5py.File(made) as file:
        assert file["residual"][:].max() <= 1e-4
        assert not list(made.parent.glob("*.parts"))


def test_splits_are_disjoint_and_keep_sisters_together_by_design(made):
    parts = [dataset.StrainDataset(made, name).records for name in dataset.SPLITS]
    assert [len(part) for part in parts] == [16, 8, 16]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(40))
    for name in dataset.SPLITS:
        records = dataset.StrainDataset(made, name, by_design=True).records
        assert set(records // 2 * 2) | set(records // 2 * 2 + 1) == set(records)
    by_cell = dataset.StrainDataset(made, "train").records
    assert set(by_cell // 2 * 2) | set(by_cell // 2 * 2 + 1) != set(by_cell)


def test_records_are_the_same_from_memory_from_file_and_from_workers(made):
    memory = dataset.StrainDataset(made, "train").tensors()
    from_file = dataset.StrainDataset(made, "train", in_memory=False)
    assert all(torch.equal(a, b) for a, b in zip(memory, from_file.tensors(), strict=True))
    batches = list(DataLoader(from_file, batch_size=5, num_workers=2))
    assert torch.equal(torch.cat([strain for _, strain in batches]), memory[1])


def test_the_same_parameters_make_the_same_bits_on_one_and_two_threads(made, tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        other = dataset.make_dataset(tmp_path / "set.h5", 40, **SMALL)
    finally:
        torch.set_num_threads(threads)
    assert content(made) == content(other)


MAKE = "from rlnlib import dataset; dataset.make_dataset({path!r}, 200, size=8, grain_size=(1, 4), repeats=2, block=32)"


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    undisturbed, killed = tmp_path / "a.h5", tmp_path / "b.h5"
    subprocess.run([sys.executable, "-c", MAKE.format(path=str(undisturbed))], check=True)
    draw, kills = random.Random(0), 0
    parts = tmp_path / "b.h5.parts"
    while not killed.exists():
        before = {p.name: p.stat().st_mtime_ns for p in parts.glob("*.npz")} if parts.exists() else {}
        process = subprocess.Popen([sys.executable, "-c", MAKE.format(path=str(killed))])
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            blocks = {p.name: p.stat().st_mtime_ns for p in parts.glob("*.npz")} if parts.exists() else {}
            if kills < 3 and len(blocks) > len(before):
                time.sleep(draw.uniform(0, 0.05))
                process.send_signal(signal.SIGKILL)
            time.sleep(0.005)
        kills += process.wait() == -signal.SIGKILL
        if parts.exists():  # nothing that was done is done again
            after = {p.name: p.stat().st_mtime_ns for p in parts.glob("*.npz")}
            assert before.items() <= after.items()
    assert kills >= 2
    assert content(undisturbed) == content(killed)


def test_an_existing_file_is_kept_and_other_parameters_are_refused(copy):
    stamp = copy.stat().st_mtime_ns
    assert dataset.make_dataset(copy, 40, **SMALL) == copy
    with pytest.raises(OSError, match="other parameters"):
        dataset.make_dataset(copy, 40, **{**SMALL, "contrast": 11.0})
    assert copy.stat().st_mtime_ns == stamp


def test_a_begun_file_with_other_parameters_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dataset.make_dataset(tmp_path / "set.h5", 2, **SMALL)
    monkeypatch.undo()
    with pytest.raises(OSError, match="begin"):
        dataset.make_dataset(tmp_path / "set.h5", 4, **SMALL)
    assert dataset.make_dataset(tmp_path / "set.h5", 2, **SMALL).exists()


def test_processes_and_blocks_do_not_change_a_bit_and_the_last_process_joins(made, tmp_path, monkeypatch):
    path = tmp_path / "set.h5"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, there in ((1, False), (0, True)):
        monkeypatch.setenv("RANK", str(rank))
        dataset.make_dataset(path, 40, block=3, **SMALL)
        assert path.exists() == there
    assert path.read_bytes() == made.read_bytes()
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="RANK=2"):
        dataset.make_dataset(path, 40, **SMALL)


def test_the_authors_arrays_come_into_the_same_layout(made, tmp_path):
    stiff, strain = (field.numpy() for field in dataset.StrainDataset(made).tensors())
    theirs = np.stack([1 - stiff, stiff], 1).swapaxes(2, 4)
    np.save(tmp_path / "cells.npy", theirs)
    six = np.zeros((40, 216, 6))
    six[..., 0] = 1e-3 * strain.swapaxes(1, 3).reshape(40, -1)
    for name, values in (("boxes", six[..., 0].reshape(40, 6, 6, 6)), ("six", six)):
        np.save(tmp_path / f"{name}.npy", values)
        pair = tmp_path / "cells.npy", tmp_path / f"{name}.npy"
        path = dataset.import_arrays(tmp_path / f"{name}.h5", 10.0, test=pair)
        back = dataset.StrainDataset(path, "test").tensors()
        assert np.array_equal(back[0].numpy(), stiff) and np.allclose(back[1].numpy(), strain, atol=1e-5)
        assert dataset.verify(path) == []
    with pytest.warns(UserWarning, match="check"):  # a wrong contrast
        dataset.import_arrays(tmp_path / "other.h5", 1.0, test=pair)
    with pytest.raises(OSError, match="exists"):
        dataset.import_arrays(path, 10.0, test=pair)
    with pytest.raises(ValueError, match="cells of the shape"):
        dataset.import_arrays(tmp_path / "bad.h5", 10.0, test=pair[::-1])


def test_a_damaged_block_is_made_again(tmp_path, monkeypatch, made):
    monkeypatch.setattr(dataset, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dataset.make_dataset(tmp_path / "set.h5", 40, **SMALL)
    monkeypatch.undo()
    (block,) = (tmp_path / "set.h5.parts").glob("*.npz")
    block.write_bytes(block.read_bytes()[:-200])
    assert content(dataset.make_dataset(tmp_path / "set.h5", 40, **SMALL)) == content(made)


def test_verify_names_damaged_records_and_repair_mends_them(copy, made):
    assert dataset.verify(copy) == []
    with h5py.File(copy, "r+") as file:
        file["strain_xx"][3, 0, 0, 0] += 0.5
        file["stiff"][35, 1, 1, 1] ^= 1
    assert dataset.verify(copy) == [3, 35]
    assert dataset.main(["verify", str(copy)]) == 1
    assert dataset.repair(copy) == [3, 35]
    assert dataset.verify(copy) == []
    assert content(copy) == content(made)


def test_damaged_and_foreign_files_get_their_sentence(copy, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="make it"):
        dataset.StrainDataset(tmp_path / "absent.h5")
    copy.write_bytes(copy.read_bytes()[:5000])
    with pytest.raises(OSError, match="truncated"):
        dataset.StrainDataset(copy)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(OSError, match="not a complete data set"):
        dataset.read_parameters(tmp_path / "foreign.h5")
    assert dataset.main(["info", str(tmp_path / "foreign.h5")]) == 2
    assert "not a complete data set" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        dataset.make_dataset(tmp_path / "file" / "set.h5", 2, **SMALL)


@pytest.mark.parametrize(
    "parameters",
    [{"n": 0}, {"n": 3}, {"contrast": -1.0}, {"poisson": 0.5}, {"grain_size": (1, 7)}, {"stiff_fraction": (0.9, 0.1)}],
)
def test_bad_parameters_are_refused_before_anything_is_written(parameters, tmp_path):
    with pytest.raises(ValueError):
        dataset.make_dataset(tmp_path / "set.h5", **{"n": 4, **SMALL, **parameters})
    assert list(tmp_path.iterdir()) == []


def test_unknown_splits_are_refused(made):
    with pytest.raises(ValueError, match="'train'"):
        dataset.StrainDataset(made, "training")


def test_the_committed_sample_is_what_its_command_makes(tmp_path):
    sample = Path(__file__).resolve().parent.parent / "data" / "sample_16.h5"
    assert dataset.verify(sample) == []
    assert dataset.main(["make", str(tmp_path / "again.h5"), "--n", "40", "--size", "16", "--contrast", "50"]) == 0
    stored, again = (dataset.StrainDataset(path).tensors() for path in (sample, tmp_path / "again.h5"))
    assert torch.equal(stored[0], again[0])
    assert rlnlib.mase(again[1], stored[1]).max() < 0.05  # the last bits depend on the processor
    assert dataset.read_parameters(sample) == dataset.read_parameters(tmp_path / "again.h5")
