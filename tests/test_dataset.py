import json
import os
import random
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from forks import begin, ended
from torch.distributed.run import main as torchrun
from torch.utils.data import DataLoader

import rlnlib
from rlnlib import dataset, reproduce
from rlnlib._files import replacing
from rlnlib.dataset import making
from rlnlib.dataset.__main__ import main

SMALL = {"size": 6, "grain_size": (1, 4), "contrast": 10.0, "repeats": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return dataset.make_dataset(tmp_path_factory.mktemp("data") / "set.h5", 40, **SMALL)


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copy(made, tmp_path / "set.h5")


def done(parts):
    """How many records stand in finished blocks."""
    return making.finished(parts, dataset.Parameters(40, **SMALL)).sum()


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
    assert made.read_bytes() == other.read_bytes()


def test_a_block_is_what_is_in_flight_and_less_than_a_second_of_work():
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    assert [making.block_size(size**3, cpu) for size in (8, 16, 31)] == [32 * threads, 32 * threads, 4 * threads]
    assert making.block_size(64**3, cpu) == 1  # all cores for one cell
    assert making.block_size(31**3, torch.device("cuda")) == 2**23 // 31**3


def test_a_killed_run_goes_on_where_it_stopped_and_computes_again_only_what_was_in_flight(made, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kill_generation.py", "--kills", "8"])
    script = Path(__file__).parent / "stress" / "kill_generation.py"
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code is None
    count = json.loads(capsys.readouterr().out)
    assert count["kills"] == 8 and count["solving"] >= 1
    assert count["computed"] - count["sets"] * count["records_of_a_set"] == count["again"] <= 8 * 8


def test_a_run_killed_after_its_file_got_its_name_clears_up(made, tmp_path, monkeypatch):
    monkeypatch.setattr(making.shutil, "rmtree", lambda *_, **__: None)
    path = dataset.make_dataset(tmp_path / "set.h5", 40, **SMALL)
    monkeypatch.undo()
    assert (tmp_path / "set.h5.parts").exists()
    assert dataset.make_dataset(path, 40, **SMALL).read_bytes() == made.read_bytes()
    assert not (tmp_path / "set.h5.parts").exists()


def test_an_existing_file_is_kept_and_other_parameters_are_refused(copy):
    stamp = copy.stat().st_mtime_ns
    assert dataset.make_dataset(copy, 40, **SMALL) == copy
    with pytest.raises(OSError, match="other parameters"):
        dataset.make_dataset(copy, 40, **{**SMALL, "contrast": 11.0})
    assert copy.stat().st_mtime_ns == stamp


def test_a_begun_file_with_other_parameters_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dataset.make_dataset(tmp_path / "set.h5", 2, **SMALL)
    monkeypatch.undo()
    with pytest.raises(OSError, match="begin"):
        dataset.make_dataset(tmp_path / "set.h5", 4, **SMALL)
    assert dataset.make_dataset(tmp_path / "set.h5", 2, **SMALL).exists()


def test_blocks_do_not_change_a_bit_and_an_impossible_rank_is_refused(made, tmp_path, monkeypatch):
    path = dataset.make_dataset(tmp_path / "set.h5", 40, block=3, **SMALL)
    assert path.read_bytes() == made.read_bytes()
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="RANK=2"):
        dataset.make_dataset(path, 40, **SMALL)


OPTIONS = ["--cells", "40", "--size", "6", "--grain-size", "1", "4", "--contrast", "10", "--repeats", "2"]


def test_torchrun_with_two_processes_makes_the_same_file(made, tmp_path):
    command = ["--standalone", "--nproc-per-node", "2", "-m", "rlnlib.dataset", "make", str(tmp_path / "set.h5")]
    assert ended(begin(torchrun, [*command, "--block", "7", *OPTIONS]), 300) == 0
    assert (tmp_path / "set.h5").read_bytes() == made.read_bytes()
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize("late", [0, 1])
def test_each_of_two_processes_returns_when_the_set_is_complete_and_not_before(late, made, tmp_path):
    """The first one has made its share, and waits; the other one then begins."""
    path = tmp_path / "set.h5"

    def make():
        dataset.verify(dataset.make_dataset(path, 40, **SMALL))

    def start(rank):
        return begin(make, RANK=str(rank), WORLD_SIZE="2")

    first = start(1 - late)
    deadline = time.monotonic() + 120
    while done(path.with_name("set.h5.parts")) < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert first.exitcode is None and not path.exists()
    assert ended(start(late)) == 0 and ended(first) == 0
    assert path.read_bytes() == made.read_bytes()


def test_the_same_command_run_twice_at_once_makes_one_sound_file(made, tmp_path):
    path = tmp_path / "set.h5"
    runs = [begin(main, ["make", str(path), "--block", "3", *OPTIONS]) for _ in range(2)]
    assert [ended(run) for run in runs] == [0, 0]
    assert path.read_bytes() == made.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["set.h5"]


@pytest.mark.parametrize("step", ["write", "finished"])
def test_another_process_that_joins_meanwhile_does_no_harm(step, made, tmp_path, monkeypatch):
    """It does so just before this one writes the joined file, or before this one looks which blocks are there."""
    path, original, solved = tmp_path / "set.h5", getattr(making, step), []

    def interrupted(*arguments):
        monkeypatch.setattr(making, step, original)
        dataset.make_dataset(path, 40, **SMALL)
        monkeypatch.setattr(making, "solve", lambda *_: solved.append(1))
        return original(*arguments)

    monkeypatch.setattr(making, step, interrupted)
    assert dataset.make_dataset(path, 40, **SMALL) == path
    assert path.read_bytes() == made.read_bytes() and not solved
    assert [file.name for file in tmp_path.iterdir()] == ["set.h5"]


def test_all_six_components_can_be_stored(made, tmp_path):
    path = dataset.make_dataset(tmp_path / "six.h5", 4, all_components=True, **SMALL)
    exact = rlnlib.solve_strain(dataset.StrainDataset(path).tensors()[0], 10.0, rtol=1e-10).strain
    with h5py.File(path) as file:
        assert file["strain"].shape == (4, 6, 6, 6, 6) and bool(file.attrs["all_components"])
        assert np.array_equal(file["strain"][:, 0], file["strain_xx"][:])
        assert np.abs(file["strain"][:] - exact.numpy()).max() < 1e-3
    shutil.copy(path, tmp_path / "copy.h5")
    with h5py.File(path, "r+") as file:
        file["strain"][2, 5, 0, 0, 0] += 1
    assert dataset.verify(path) == [2] == dataset.repair(path)
    assert path.read_bytes() == (tmp_path / "copy.h5").read_bytes()


def test_the_profiles_of_the_whole_experiment_are_those_of_the_data_sets():
    assert dataset.PROFILES["laptop"] == {"n": 5120, "size": 16, "repeats": 1, "grain_size": (1, 10)}
    for name in dataset.PROFILES:
        assert reproduce.PROFILES[name].stages[-1].data == dataset.PROFILES[name]


def test_the_authors_arrays_come_into_the_same_layout(made, tmp_path, capsys):
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
    for split, kind in (("train", 0), ("validation", 1)):
        command = ["import", str(tmp_path / f"{split}.h5"), "--contrast", "10", f"--{split}", *map(str, pair)]
        assert main(command) == 0
        assert len(dataset.StrainDataset(tmp_path / f"{split}.h5", split)) == 40
        assert main(command) == 2 and "exists" in capsys.readouterr().err
        with h5py.File(tmp_path / f"{split}.h5") as file:
            assert set(file["split"][:]) == {kind} and file.attrs["source"] == "cells.npy, six.npy"
    with pytest.warns(UserWarning, match="check"):  # a wrong contrast
        dataset.import_arrays(tmp_path / "other.h5", 1.0, test=pair)
    with pytest.raises(OSError, match="exists"):
        dataset.import_arrays(path, 10.0, test=pair)
    with pytest.raises(ValueError, match="cells of the shape"):
        dataset.import_arrays(tmp_path / "bad.h5", 10.0, test=pair[::-1])


def test_a_damaged_block_is_made_again(tmp_path, monkeypatch, made):
    monkeypatch.setattr(making, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dataset.make_dataset(tmp_path / "set.h5", 40, **SMALL)
    monkeypatch.undo()
    block = min((tmp_path / "set.h5.parts").glob("*.npz"))
    block.write_bytes(block.read_bytes()[:-200])
    assert content(dataset.make_dataset(tmp_path / "set.h5", 40, **SMALL)) == content(made)


def test_verify_names_damaged_records_and_repair_mends_them(copy, made):
    assert dataset.verify(copy) == []
    with h5py.File(copy, "r+") as file:
        file["strain_xx"][3, 0, 0, 0] += 0.5
        file["stiff"][35, 1, 1, 1] ^= 1
    assert dataset.verify(copy) == [3, 35]
    assert main(["verify", str(copy)]) == 1
    assert dataset.repair(copy) == [3, 35]
    assert dataset.verify(copy) == []
    assert content(copy) == content(made)


def test_any_changed_byte_is_found_and_mended(tmp_path, monkeypatch):
    """Bytes are flipped in 100 random places, one at a time: a record is named, or the file, or no content changed."""
    copy = dataset.make_dataset(tmp_path / "set.h5", 10, **SMALL)  # few records: each is read some 500 times
    sound, expected, draw = copy.read_bytes(), content(copy), random.Random(0)
    found = {"record": 0, "file": 0, "nothing": 0}
    monkeypatch.setattr(os, "fsync", lambda _: None)  # some seconds of waiting for the disk
    for place in [*range(0, 48, 8), *(draw.randrange(len(sound)) for _ in range(100))]:
        changed = bytearray(sound)
        changed[place] ^= draw.randrange(1, 256)
        copy.write_bytes(changed)
        try:
            damaged = dataset.verify(copy)
        except OSError as error:
            assert str(copy) in str(error)
            assert main(["repair", str(copy)]) == main(["info", str(copy)]) == 2
            found["file"] += 1
            continue
        found["record" if damaged else "nothing"] += 1
        if damaged:
            assert dataset.repair(copy) == damaged
            assert copy.read_bytes() == sound
        assert content(copy) == expected
    assert found["record"] > 40 and found["file"] > 5


def test_a_file_cut_short_anywhere_is_refused(copy, made):
    sound, draw = made.read_bytes(), random.Random(0)
    for length in (0, 100, len(sound) - 1, *(draw.randrange(len(sound)) for _ in range(20))):
        copy.write_bytes(sound[:length])
        with pytest.raises(OSError, match=copy.name):
            dataset.verify(copy)


def test_damaged_and_foreign_files_get_their_sentence(copy, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="make it"):
        dataset.StrainDataset(tmp_path / "absent.h5")
    copy.write_bytes(copy.read_bytes()[:5000])
    with pytest.raises(OSError, match=r"truncated.*copy it again"):
        dataset.StrainDataset(copy)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(OSError, match="not a complete data set"):
        dataset.read_parameters(tmp_path / "foreign.h5")
    assert main(["info", str(tmp_path / "foreign.h5")]) == 2
    assert "not a complete data set" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        dataset.make_dataset(tmp_path / "file" / "set.h5", 2, **SMALL)


@contextmanager
def little_room(bytes_: int):
    """Files cannot grow beyond this, as on a disk that is full; the signal is turned into an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("part", [0.002, 0.2, 0.5, 0.99])
def test_a_disk_that_runs_full_leaves_no_file_and_loses_nothing(part, made, tmp_path):
    path, size = tmp_path / "set.h5", made.stat().st_size
    with little_room(int(part * size)), pytest.raises(OSError, match=r"could not be written.*make room"):
        dataset.make_dataset(path, 40, block=4, **SMALL)
    assert not path.exists() and not list(tmp_path.glob("**/*.partial"))
    kept = done(tmp_path / "set.h5.parts")
    assert kept == (40 if part > 0.1 else 0)  # blocks are smaller than the whole
    dataset.make_dataset(path, 40, **SMALL)
    assert path.read_bytes() == made.read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_small_disk_that_is_full_gets_its_sentence(made, tmp_path, capsys):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("this container cannot mount")
    try:
        assert main(["make", str(tmp_path / "set.h5"), *OPTIONS]) == 2
        assert "make room" in capsys.readouterr().err
        assert not (tmp_path / "set.h5").exists()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk_while_repairing_leaves_the_file_as_it_was(copy):
    with h5py.File(copy, "r+") as file:
        file["strain_xx"][3, 0, 0, 0] += 0.5
    before = copy.read_bytes()
    with little_room(len(before) // 2), pytest.raises(OSError, match="make room"):
        dataset.repair(copy)
    assert copy.read_bytes() == before and list(copy.parent.iterdir()) == [copy]
    assert dataset.repair(copy) == [3]


def test_a_read_only_folder_gets_its_sentence(copy):
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:  # root may write everywhere
            os.seteuid(65534)
        with pytest.raises(OSError, match="could not be written"):
            dataset.make_dataset(folder / "set.h5", 2, **SMALL)
        assert list(folder.iterdir()) == []
    finally:
        os.seteuid(user)
        folder.rmdir()


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
    assert main(["make", str(tmp_path / "again.h5"), "--n", "40", "--size", "16", "--contrast", "50"]) == 0
    stored, again = (dataset.StrainDataset(path).tensors() for path in (sample, tmp_path / "again.h5"))
    assert torch.equal(stored[0], again[0])
    assert rlnlib.mase(again[1], stored[1]).max() < 0.05  # the last bits depend on the processor
    assert dataset.read_parameters(sample) == dataset.read_parameters(tmp_path / "again.h5")


# Damage that would be read as data, and what users do with files that are open, not theirs, or not ours.


def flip(path, old: bytes, new: bytes):
    """Change a text in the file, as a flipped bit does; HDF5 has no checksum there."""
    content = path.read_bytes()
    assert content.count(old) >= 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"contrast": 10.0', b'"contrast": 11.0'),
        (b'"contrast": 10.0', b'"contrast": 90.0'),
        (b'"seed": 0', b'"seed": 8'),
        (b'"rtol": 0.0001', b'"rtol": 0.0003'),
        (b'"discretization": "bbar"', b'"discretization": "hex8"'),
        (b'"grain_size": [1, 4]', b'"grain_size": [1, 5]'),
        (b'"grain_size": [1, 4]', b'"grain_size": [2, 4]'),
        (b'"stiff_fraction": [0.0, 1.0]', b'"stiff_fraction": [0.1, 1.0]'),
        (b'"stiff_fraction": [0.0, 1.0]', b'"stiff_fraction": [0.0, 0.8]'),
    ],
)
def test_a_changed_parameter_is_found_and_nothing_is_repaired_by_it(old, new, copy):
    with h5py.File(copy, "r+") as file:
        file["strain_xx"][3, 0, 0, 0] += 0.5
    flip(copy, old, new)
    before = copy.read_bytes()
    for action in (dataset.verify, dataset.repair):
        with pytest.raises(OSError, match=copy.name):
            action(copy)
    assert copy.read_bytes() == before


def test_a_set_that_another_generator_designed_is_not_repaired(copy, monkeypatch):
    with h5py.File(copy, "r+") as file:
        file["strain_xx"][3, 0, 0, 0] += 0.5
    original = making.microstructure.design
    monkeypatch.setattr(making.microstructure, "design", lambda *a: (original(*a)[0][::-1], original(*a)[1]))
    with pytest.raises(OSError, match="another grain_size"):
        dataset.repair(copy)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_damaged_record_is_not_handed_out(in_memory, copy):
    index = int(dataset.StrainDataset(copy, "train").records[2])
    with h5py.File(copy, "r+") as file:
        file["strain_xx"][index, 0, 0, 0] += 1e-3
    with pytest.raises(OSError, match=rf"record {index} does not match its checksum.*verify"):
        dataset.StrainDataset(copy, "train", in_memory=in_memory).tensors()
    assert len(dataset.StrainDataset(copy, "test", in_memory=in_memory).tensors()[0]) == 16


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"n": 10**15, "repeats": 1}, "memory"),
        ({"repeats": 10**9}, "multiple"),
        ({"n": 10**6, "repeats": 10**6, "size": 3000, "grain_size": (1, 4)}, "memory"),
        ({"seed": 2**64}, "seed"),
        ({"all_components": "no"}, "all_components"),
        ({"block": 0}, "block"),
        ({"device": "gpu"}, "device"),
        ({"progress": "yes"}, "progress"),
        ({"discretization": []}, "discretization"),
        ({"grain_size": "nan"}, "grain_size"),
        ({"path": 7}, "path"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_generated_or_written(
    parameters, sentence, tmp_path, monkeypatch
):
    monkeypatch.setattr(making.microstructure, "generate_cell", lambda *_: pytest.fail("a cell was generated"))
    with pytest.raises(ValueError, match=sentence):
        dataset.make_dataset(**{"path": tmp_path / "set.h5", "n": 4, **SMALL, **parameters})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_announces_a_million_repeats_is_refused_at_once(copy, monkeypatch):
    monkeypatch.setattr(making.microstructure, "generate_cell", lambda *_: pytest.fail("a cell was generated"))
    for change in ({"repeats": 10**6, "n": 10**6}, {"size": 3000}):
        with h5py.File(copy, "r+") as file:
            file.attrs["parameters"] = json.dumps({**json.loads(file.attrs["parameters"]), **change})
            file.attrs.update(change)
        with pytest.raises(OSError, match="not a complete data set"):
            dataset.read_parameters(copy)


@pytest.mark.parametrize("verb", ["info", "verify", "repair", "make"])
def test_a_set_that_is_open_for_writing_elsewhere_gets_that_reason_and_no_advice_to_make_it_again(verb, copy, capsys):
    script = f"import h5py; f = h5py.File({str(copy)!r}, 'r+'); print(flush=True); input(); f.close()"
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    try:
        other.stdout.readline()
        assert main([verb, str(copy), *(OPTIONS if verb == "make" else [])]) == 2
        said = capsys.readouterr().err
        assert "open for writing" in said and str(copy) in said
        assert not any(word in said for word in ("truncated", "again", "make room", "delete"))
    finally:
        other.communicate(b"\n")
    assert main(["verify", str(copy)]) == 0


def test_a_set_whose_writer_was_killed_is_told_how_to_take_its_mark_away(copy):
    script = f"import h5py, os; f = h5py.File({str(copy)!r}, 'r+'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script])
    with pytest.raises(OSError, match=r"marked as open for writing.*h5clear -s"):
        dataset.verify(copy)


def test_a_set_that_is_open_for_reading_elsewhere_can_be_read_and_repaired(copy):
    script = f"import h5py, time; f = h5py.File({str(copy)!r}, 'r'); print(flush=True); time.sleep(60)"
    with h5py.File(copy, "r+") as file:
        file["strain_xx"][3, 0, 0, 0] += 0.5
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        assert dataset.repair(copy) == [3]
    finally:
        other.kill()
        other.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_set_of_another_user_gets_the_systems_reason(copy, tmp_path):
    copy.chmod(0o600)
    folder = tmp_path
    while os.stat(folder).st_uid == 0 and folder != folder.parent:
        folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
    user = os.geteuid()
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match="Permission denied") as caught:
            dataset.read_parameters(copy)
    finally:
        os.seteuid(user)
    assert "truncated" not in str(caught.value) and "again" not in str(caught.value)


def interrupted_run(path, monkeypatch):
    """A run that has solved all its blocks, and is stopped before it joins them."""
    monkeypatch.setattr(making, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dataset.make_dataset(path, 40, **SMALL)
    monkeypatch.undo()
    return sorted(path.with_name(path.name + ".parts").glob("*.npz"))


@pytest.mark.parametrize("plant", ["other contrast", "no parameters", "other shape"])
def test_blocks_of_another_set_are_refused_and_stay(plant, tmp_path, monkeypatch):
    blocks = interrupted_run(tmp_path / "set.h5", monkeypatch)
    with np.load(blocks[0]) as archive:
        block = dict(archive)
    if plant == "other contrast":
        other = dataset.Parameters(40, **{**SMALL, "contrast": 11.0})
        block["parameters"] = making._key(other)
    elif plant == "no parameters":
        del block["parameters"]
    else:
        block["strain_xx"] = block["strain_xx"].astype(np.float64)
    np.savez(blocks[0], **block)
    before = blocks[0].read_bytes()
    with pytest.raises(OSError, match=rf"{blocks[0].name} was not solved for these parameters"):
        dataset.make_dataset(tmp_path / "set.h5", 40, **SMALL)
    assert blocks[0].read_bytes() == before and not (tmp_path / "set.h5").exists()


def test_two_that_write_one_file_at_once_do_not_take_each_others_part(tmp_path):
    path = tmp_path / "set.h5"
    with replacing(path) as first:
        first.write_bytes(b"first")
        with replacing(path) as second:
            second.write_bytes(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_repair_left_goes_with_the_next_one(copy):
    """The process dies when the new file is written and has no name yet."""
    with h5py.File(copy, "r+") as file:
        file["strain_xx"][3, 0, 0, 0] += 0.5

    def repair():
        os.replace = lambda *_: os.kill(os.getpid(), 9)
        dataset.repair(copy)

    assert ended(begin(repair)) == -9
    (left,) = copy.parent.glob("*.partial")
    assert left.stat().st_size > 10_000
    assert dataset.repair(copy) == [3]
    assert list(copy.parent.iterdir()) == [copy]


@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "x"), ("RANK", ""), ("RANK", "-1"), ("WORLD_SIZE", "0"), ("RANK", "1.5")]
)
def test_an_odd_value_in_the_environment_is_named(name, value, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    assert main(["make", str(tmp_path / "set.h5"), *OPTIONS]) == 2
    assert f"{name}={value!r}" in capsys.readouterr().err


def test_the_committed_sample_of_the_earlier_version_stays_readable():
    sample = Path(__file__).resolve().parent.parent / "data" / "sample_16.h5"
    assert dataset.read_parameters(sample) == dataset.Parameters(40, size=16, repeats=5, contrast=50.0)
