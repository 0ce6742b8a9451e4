"""Cells side by side: the caller's process stays as it was, and other programs on the machine cost little."""

import errno
import os
import subprocess
import sys
import time

import pytest
import torch
from numba.core import caching

import rlnlib
from rlnlib import fast
from rlnlib.fast import compiling, cores

if not hasattr(os, "fork"):
    pytest.skip("no fork on this system", allow_module_level=True)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def new_thread_count():
    """What torch gives to a thread that starts now."""
    counts = []
    thread = cores.threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return counts[0]


def test_results_come_in_order_and_each_worker_has_one_thread(threads):
    found = list(cores.map_on_cores(lambda k: (k, torch.get_num_threads()), range(20), 2))
    assert [k for k, _ in found] == list(range(20)) and {count for _, count in found} == {1}
    assert torch.get_num_threads() == new_thread_count() == threads


def test_the_thread_count_is_left_as_found_after_an_error_and_after_an_abandoned_rest(threads):
    def fail(k):
        raise ZeroDivisionError(k)

    with pytest.raises(ZeroDivisionError):
        list(cores.map_on_cores(fail, range(20), 2))
    assert torch.get_num_threads() == new_thread_count() == threads
    for _ in cores.map_on_cores(lambda k: k, range(20), 2):
        break
    assert torch.get_num_threads() == new_thread_count() == threads
    with pytest.raises(ZeroDivisionError), cores.one_thread_of_torch("cpu", 2):
        assert torch.get_num_threads() == 1
        fail(0)
    assert torch.get_num_threads() == new_thread_count() == threads


def test_split_covers_all_items_once(monkeypatch):
    monkeypatch.setattr(cores, "_SHARE_VOXELS", 1)
    for count in (1, 2, 5):
        shares = []
        with cores.one_thread_of_torch("cpu", count):
            cores.split(lambda start, stop, found=shares: found.append((start, stop)), 7, 7**3)
        assert len(shares) == count
        assert sorted(k for share in shares for k in range(*share)) == list(range(7))
    cores.split(lambda start, stop: shares.append((start, stop)), 7, 7**3)
    assert shares[-1] == (0, 7)  # outside, the calling thread works alone


FORK = """
import multiprocessing, torch, rlnlib
cells = rlnlib.generate_cells(1, size=31)
def study(contrast):
    return rlnlib.solve_strain(cells, contrast=contrast, rtol=1e-4).effective_stress[0, 0].item()
if __name__ == "__main__":
    torch.set_num_threads(2)
    torch.rand(300, 300) @ torch.rand(300, 300)
    torch.rand(10**6).exp()  # wakes the threads of OpenMP
    alone = study(10.0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(study, [10.0, 10.0]).get(timeout=60) == [alone, alone]
    assert torch.get_num_threads() == 2
"""


def test_forked_processes_solve_after_the_parent_has_solved(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(FORK, encoding="utf-8")
    subprocess.run([sys.executable, str(script)], check=True, timeout=200)


def test_a_few_small_cells_have_one_worker(monkeypatch, threads):
    """Two would wait for each other: two cells of 16^3 took 2.4 times as long with two."""
    asked, plain = [], cores.map_on_cores
    monkeypatch.setattr(cores, "map_on_cores", lambda f, items, n: asked.append((len(items), n)) or plain(f, items, n))
    monkeypatch.setattr(cores, "idle", lambda wanted: wanted)
    torch.set_num_threads(2)
    for cells in (2, 26):
        rlnlib.solve_strain(torch.zeros(cells, 16, 16, 16, dtype=torch.bool), 2.0)
    assert asked == [(1, 1), (2, 2)]


def test_two_threads_beside_other_programs_are_hardly_slower_than_one():
    """torch's own threads would take ten times as long, since they spin while they wait for each other."""
    cell = rlnlib.generate_cells(2, size=16, seed=0)
    script = "import time\nstop = time.time() + 60\nwhile time.time() < stop: pass"
    busy = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2 * (os.cpu_count() or 1))]
    before, seconds = torch.get_num_threads(), {1: [], 2: []}
    try:
        for _ in range(5):  # in turn, so that both see the same machine
            for count, measured in seconds.items():
                torch.set_num_threads(count)
                start = time.perf_counter()
                for _ in range(3):
                    rlnlib.solve_strain(cell, 50.0, rtol=1e-6)
                measured.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
        for process in busy:
            process.kill()
            process.wait()
    ratios = sorted(two / one for one, two in zip(seconds[1], seconds[2], strict=True))
    assert ratios[2] <= 1.2


@pytest.mark.parametrize(("wanting", "found"), [(1, 4), (3, 4), (5, 4), (6, 3), (8, 1), (30, 1)])
def test_threads_are_taken_only_for_cores_that_nobody_works_on(wanting, found, monkeypatch, tmp_path):
    (tmp_path / "loadavg").write_text(f"0.20 0.18 0.12 {wanting}/80 11206\n", encoding="ascii")
    monkeypatch.setattr(cores, "_LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert cores.idle(4) == found


def test_where_nothing_says_who_wants_a_core_all_threads_are_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "_LOAD", tmp_path / "none")
    assert cores.idle(3) == 3
    (tmp_path / "none").write_text("strange", encoding="ascii")
    assert cores.idle(3) == 3


def test_a_solve_beside_busy_cores_has_one_thread_and_leaves_the_others_as_found(monkeypatch, threads):
    seen = []
    monkeypatch.setattr(cores, "idle", lambda asked: seen.append(asked) or 1)
    monkeypatch.setattr(cores, "split", lambda work, items, voxels: (seen.append(cores.sharing(2**20)), work(0, items)))
    rlnlib.solve_strain(rlnlib.generate_cells(1, size=10, seed=0), 10.0, rtol=1e-2)
    assert seen[0] == threads and set(seen[1:]) == {1}
    assert torch.get_num_threads() == new_thread_count() == threads


def test_one_switch_runs_the_plain_twins(monkeypatch):
    assert fast.use("cpu") and not fast.use("cuda") and not fast.use("meta")
    monkeypatch.setenv("RLN_PLAIN", "1")
    assert not fast.use("cpu")
    monkeypatch.setenv("RLN_PLAIN", "0")
    assert fast.use("cpu")


def no_folder(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])


def no_room(monkeypatch):
    def full(self, *overload):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(caching.Cache, "save_overload", full)


@pytest.mark.parametrize("lack", [no_folder, no_room])
def test_without_a_place_for_the_cache_of_compiled_loops_all_works_and_one_warning_says_it(lack, monkeypatch):
    monkeypatch.setattr(compiling.Compiler, "cached", True)
    lack(monkeypatch)

    def twice(x):
        return 2 * x

    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR") as caught:
        assert [compiling.compiled(twice)(2.0), compiling.compiled_sum(twice)(3.0)] == [4.0, 6.0]
    assert len(caught) == 1


def test_compiled_loops_are_kept_until_their_vectors_are_edited(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling, "_VECTORS", tmp_path / "vectors.py")

    def twice(x):
        return 2 * x

    def found():
        loop = compiling.compiled(twice)
        assert loop(2.0) == 4.0
        return sum(loop.stats.cache_hits.values())

    (tmp_path / "vectors.py").write_text("one", encoding="utf-8")
    found()
    assert found() == 1
    (tmp_path / "vectors.py").write_text("another", encoding="utf-8")
    assert found() == 0
