"""Files are whole or absent, whatever happens while they are written."""

import multiprocessing
import os
import signal
import threading

import pytest

from rlnlib._files import replacing, write_atomically, writing


def test_a_file_that_fails_midway_stays_as_it_was(tmp_path):
    path = tmp_path / "results.json"
    write_atomically(path, b"whole")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    contents = [bytes([n]) * 100_000 for n in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(tmp_path / "one", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "one").read_bytes() in contents and len(list(tmp_path.iterdir())) == 1


def _begin(path, begun):
    with replacing(path) as partial:
        partial.write_bytes(b"half")
        begun.set()
        signal.pause()


def test_what_a_killed_process_left_is_removed_by_the_next_writer_and_what_another_writes_is_not(tmp_path):
    copies = multiprocessing.get_context("fork")
    writers = []
    for _ in range(2):
        begun = copies.Event()
        writers.append(copies.Process(target=_begin, args=(tmp_path / "set.h5", begun)))
        writers[-1].start()
        assert begun.wait(30)
    writers[0].kill()
    writers[0].join()
    try:
        write_atomically(tmp_path / "other", b"whole")
        (left,) = tmp_path.glob("*.partial")
        assert f"-{writers[1].pid}-" in left.name
    finally:
        writers[1].kill()
        writers[1].join()
    write_atomically(tmp_path / "set.h5", b"whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other", "set.h5"]


def test_a_long_name_can_be_written(tmp_path):
    write_atomically(tmp_path / ("ß" * 120), b"whole")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"whole"]


def test_a_refusal_to_write_is_named_with_what_to_do(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    path, sentence = tmp_path / "file" / "a", r"file/a could not be written .*make room or choose a folder"
    with pytest.raises(OSError, match=sentence), writing(path):
        write_atomically(path, b"")
    assert os.listdir(tmp_path) == ["file"]
