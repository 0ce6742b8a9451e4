"""The benchmarks: each script runs and writes a sound record, and the page of them refuses what cannot be."""

import copy
import json
import multiprocessing
import re
import runpy
import shutil
import statistics
import sys
from pathlib import Path

import pytest

import benchmark_tables
import common
import pages
import rlnlib
from project import Failure
from rlnlib import weight_files
from rlnlib.book import benchmarks
from rlnlib.fast.environment import ENVIRONMENT
from rlnlib.rln import KINDS
from rlnlib.training import fast_precision

ROOT = Path(__file__).resolve().parents[2]
FOUND = benchmarks.records()

#: Each script at a size that says nothing of any machine.
TINY = {
    "scipy_sparse": ["--size", "10", "--cells", "1", "--repeats", "1"],
    "network_forward": ["--size", "11", "--cells", "2", "--repeats", "1"],
    "training_step": ["--size", "10", "--cells", "1", "--repeats", "1"],
    "batch_size": ["--size", "10", "--batches", "1", "2", "--repeats", "1"],
    "scaling": ["--sizes", "10", "12", "20", "--repeats", "1", "1", "1", "--rtol", "1e-2"],
    "large_cell": ["--sizes", "24", "32", "--iterations", "3"],
    "fixed_point": ["--size", "10", "--repeats", "1", "--rtol", "1e-2"],
    "start": ["--size", "10", "--repeats", "1"],
    "threads": ["--size", "10", "--repeats", "1"],
    "memory": ["--sizes", "12", "--cells", "2"],
    "time_accuracy": ["--cells", "1", "--contrasts", "10", "--iterations", "2", "--repeats", "1"],
}
if shutil.which("FANS"):
    TINY["solver_against_fans"] = ["--sizes", "11", "12", "--cells", "1", "1", "--repeats", "1", "--large", "16"]


@pytest.fixture(scope="module")
def ready_processes():
    """For a benchmark that asks for fresh processes: each a copy of one that has loaded the library, and no more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlnlib", "numba"])
    return context


@pytest.fixture
def no_imitation(monkeypatch):
    """Where the processor has no bfloat16 and takes minutes to imitate it, float32 stands in its place."""
    if fast_precision("cpu") != "bf16-mixed":
        predict, product = rlnlib.predict_strain, common.matrix_product
        monkeypatch.setattr(rlnlib, "predict_strain", lambda *given, dtype=None, **more: predict(*given, **more))
        monkeypatch.setattr(common, "matrix_product", lambda *given, dtype=None, **more: product(*given, **more))


@pytest.mark.parametrize("script", TINY)
def test_a_benchmark_runs_and_writes_a_sound_record(script, tmp_path, monkeypatch, ready_processes, no_imitation):
    """As the main program, but in this process, which has loaded torch already: that takes seconds."""
    for name, value in ENVIRONMENT.items():  # else the script starts this process again
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: ready_processes)
    monkeypatch.setattr(sys, "argv", [script, *TINY[script], "--out", str(tmp_path / "a.json")])
    runpy.run_path(str(ROOT / "benchmarks" / f"{script}.py"), run_name="__main__")
    (record,) = benchmarks.records(tmp_path).values()
    # Times this short are noise: a side may beat the matrix product, and an exponent fall below 0.
    noise = r"matrix product in its time|exponent"
    assert not [fault for fault in benchmark_tables.faults(script, record) if not re.search(noise, fault)]
    assert record["question"][1:] in benchmark_tables.page({script: record})


def test_the_stored_records_are_sound_and_are_those_of_the_scripts():
    assert len(FOUND) >= 8
    for name, record in FOUND.items():
        assert benchmark_tables.faults(name, record) == []
    for name in (
        "network_forward",
        "scaling",
        "batch_size",
        "memory",
        "training_step",
        "time_accuracy_16",
        "fixed_point",
        "start",
    ):
        assert FOUND[name]["machine"]["cores"] >= 1


def test_the_plane_has_the_networks_shipped_for_each_size():
    """Those of the paper's three kinds."""
    shipped = {(kind, k, size) for size in (16, 31) for kind, k in weight_files.shipped(size) if kind in KINDS}
    assert ("rln", 50.0, 31) in shipped
    drawn = {
        (row["method"].lower(), row["contrast"], size)
        for size in (16, 31)
        for row in FOUND[f"time_accuracy_{size}"]["rows"]
    }
    assert shipped <= drawn


def raw(name):
    """A record as it is stored."""
    return json.loads((benchmarks.RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_records_hold_nothing_that_follows_from_their_seconds():
    derived = ("cells_per_second", "ratio", "exponent", "median_seconds", "bytes_per_voxel", "seconds_per_cell")
    for name, record in FOUND.items():
        assert not set(derived) & set(raw(name)), name
        assert not any({"least", "most"} & set(row) for row in raw(name).get("rows", ())), name
        assert len(record) >= len(raw(name))


def test_rates_and_ratios_follow_from_the_seconds():
    record = {"settings": {}, "seconds": {"a": [1.0, 2.0, 4.0], "b": [3.0, 3.0, 3.0]}, "cells": {"a": 2, "b": 1}}
    found = benchmarks.derive({**record, "compare": [["a", "b"]]})
    assert found["cells_per_second"]["a"] == {"median": 1.0, "least": 0.5, "most": 2.0}
    assert found["ratio"]["a / b"] == {"median": 3.0, "least": 1.5, "most": 6.0}  # turn by turn


def test_an_exponent_is_that_of_the_power_law():
    voxels = [10, 100, 1000]
    sizes = {"settings": {}, "voxels": voxels, "iterations": {"a": [1, 1, 2]}}
    found = benchmarks.derive({**sizes, "seconds_by_size": {"a": [[1e-3 * v**1.5] for v in voxels]}})
    assert found["exponent"]["a"] == pytest.approx(1.5) and found["exponent_from_size_to_size"]["a"] == [1.5, 1.5]
    assert found["exponent_of_an_iteration"]["a"] < 1.5  # the largest took twice as many


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda r: r.pop("machine"), "lacks machine"),
        (lambda r: r["mase_percent"].update(float32=float("nan")), "is nan"),
        (lambda r: r["mase_percent"].update(float32=-1.0), "is -1"),
        (lambda r: r["seconds"].update(plain=[1e-3] * 7), "times the operations of a matrix product"),
    ],
)
def test_a_record_that_cannot_be_stops_the_build(change, fault, tmp_path, monkeypatch):
    record = raw("network_forward")
    monkeypatch.setattr(benchmarks, "records", lambda: {"forward": benchmarks.derive(record)})
    assert record["question"] in pages.benchmark_page()
    change(record)
    with pytest.raises(Failure, match=rf"forward\.json: .*{fault}"):
        pages.benchmark_page()


def test_the_numbers_of_the_page_are_those_of_the_records():
    text = benchmark_tables.page(FOUND)
    for name, record in FOUND.items():
        section = text.split(f"\n`{name}.json`")[1].split("\n## ")[0]
        for side, rate in record.get("cells_per_second", {}).items():
            assert f"| {side} | {rate['median']:.4g} | {rate['least']:.4g} | {rate['most']:.4g} |" in section
        for pair, ratio in record.get("ratio", {}).items():
            assert f"| {pair} | {ratio['median']:.4g} |" in section
    assert "| RLN, float32" in text and ("not measured" in text) != any(r["machine"].get("gpu") for r in FOUND.values())


def test_the_limit_of_a_prediction_is_its_ratio_at_the_full_rate_of_the_machine():
    record = copy.deepcopy(FOUND["network_forward"])
    limits = {precision: ratio for precision, _, ratio in benchmark_tables.limits(record)}
    rates = {side: rate["median"] for side, rate in record["cells_per_second"].items()}
    plain = max(rate for side, rate in rates.items() if side.startswith("plain"))
    peak = record["matrix_product_gflop_per_second"]["matrix product"]["median"]
    # The median of the ratios by turn is not the ratio of the medians: as if all turns had been alike, they are.
    (pair,) = (sides for sides in record["ratio"] if sides.startswith("rlnlib / plain"))
    record["ratio"][pair]["median"] = rates["rlnlib"] / plain
    even = {precision: ratio for precision, _, ratio in benchmark_tables.limits(record)}
    assert even["float32"] == pytest.approx(peak / record["gflop_per_cell"]["rlnlib"] / plain, rel=1e-3)
    assert f"{limits['float32']:.4g} times the plain one" in benchmark_tables.page(FOUND)


def test_the_limit_of_the_solver_leaves_out_what_is_no_part_of_an_iteration():
    record = copy.deepcopy(FOUND["solver_against_mugrid_1"])
    whole, alone, ratio = benchmark_tables.solver_limit(record)
    assert alone < whole and f"would be {ratio:.4g} times muGrid" in benchmark_tables.page(FOUND)
    parts = record["nanoseconds_per_voxel_and_iteration"]
    parts[benchmark_tables.SOLVER_PARTS[0]] += whole - alone  # as if the parts were all
    assert benchmark_tables.solver_limit(record)[2] == pytest.approx(
        record["ratio"]["rlnlib / mugrid float32"]["median"]
    )


def test_a_bound_is_reached_or_not_as_its_number_says():
    values = {what: (value, sense, bound) for what, value, sense, bound in benchmark_tables.bounds(FOUND)}
    assert len(values) >= 6
    text = benchmark_tables.page(FOUND)
    for what, (value, sense, bound) in values.items():
        reached = value >= bound if sense == "at least" else value <= bound
        verdict = "reached" if reached else "not reached"
        assert f"| {what} | {value:.4g} | {sense} {bound:g} | {verdict} |" in text


def test_beside_fans_the_page_says_what_the_record_has():
    record = FOUND["solver_against_fans"]
    for size in record["settings"]["sizes"]:
        counts = [record["iterations"][f"{side}, {size}"] for side in ("FANS", "rlnlib, float32", "rlnlib, float64")]
        assert counts[0] == counts[2] and max(abs(a - b) for a, b in zip(*counts[:2], strict=True)) <= 1
        assert record["largest_difference_of_strain"][f"float64, {size}"] < 1e-12
        assert record["largest_difference_of_strain"][f"float32, {size}"] < 1e-5
        assert 3.5 < record["ratio"][f"rlnlib, float32, {size} / FANS, {size}"]["median"] < 6
        assert 1.8 < record["ratio"][f"rlnlib, float64, {size} / FANS, {size}"]["median"] < 3.1
    spent = {side: statistics.median(turns) for side, turns in record["processor_seconds_of_a_process"].items()}
    assert 2 * spent["FANS"] < spent["rlnlib, float32"]
    single, double = (
        record["bytes_per_voxel"][f"rlnlib, {p}"] / record["bytes_per_voxel"]["FANS"] for p in ("float32", "float64")
    )
    assert 0.8 < single < 1 and 1.25 < double < 1.4
