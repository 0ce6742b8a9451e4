"""The benchmarks: each script runs and writes a sound record, and the page of them refuses what cannot be."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import benchmark_page
import build
from rlnlib import weight_files

ROOT = Path(__file__).resolve().parents[2]
FOUND = benchmark_page.records(ROOT / "benchmarks" / "results")

#: Each script at a size that says nothing of any machine.
TINY = {
    "scipy_sparse": ["--size", "10", "--cells", "1", "--repeats", "1"],
    "network_forward": ["--size", "11", "--cells", "2", "--repeats", "1"],
    "training_step": ["--size", "10", "--cells", "1", "--repeats", "1"],
    "batch_size": ["--size", "10", "--batches", "1", "2", "--repeats", "1"],
    "scaling": ["--sizes", "10", "12", "20", "--repeats", "1", "1", "1", "--rtol", "1e-2"],
    "memory": ["--sizes", "12", "16", "--cells", "2"],
    "time_accuracy": ["--cells", "1", "--contrasts", "10", "--iterations", "2", "--repeats", "1"],
}


@pytest.mark.parametrize("script", TINY)
def test_a_benchmark_runs_and_writes_a_sound_record(script, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / f"{script}.py"),
        *TINY[script],
        "--out",
        str(tmp_path / "a.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "a.json").read_text())
    # Times this short are noise: a larger cell may take less of it.
    noise = r"less time|half the time|matrix product in its time|exponent|is 0\.?$"
    assert not [fault for fault in benchmark_page.faults(script, record) if not re.search(noise, fault)]
    assert record["question"][1:] in benchmark_page.page({script: record}, "# Benchmarks")


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_the_stored_records_are_sound_and_are_those_of_the_scripts():
    assert len(FOUND) >= 8
    for name, record in FOUND.items():
        assert benchmark_page.faults(name, record) == []
    for name in ("network_forward", "scaling", "batch_size", "memory", "training_step", "time_accuracy_16"):
        assert FOUND[name]["machine"]["cores"] >= 1


def test_the_plane_has_the_networks_shipped_for_each_size():
    shipped = {(entry["kind"], entry["contrast"], entry["size"]) for entry in weight_files.catalogue()}
    assert ("rln", 50.0, 31) in shipped
    for size in (16, 31):
        rows = FOUND[f"time_accuracy_{size}"]["rows"]
        drawn = {(row["method"].lower(), row["contrast"], size) for row in rows}
        assert {key for key in shipped if key[2] == size} <= drawn


def broken(name, change):
    """The faults that a change to a sound record brings."""
    record = copy.deepcopy(FOUND[name])
    change(record)
    return " ".join(benchmark_page.faults(name, record))


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("network_forward", lambda r: r.pop("machine"), "lacks machine"),
        ("network_forward", lambda r: r["cells_per_second"]["plain"].update(median=float("nan")), "is nan"),
        ("network_forward", lambda r: r["cells_per_second"]["plain"].update(median=-1.0), "is -1"),
        ("network_forward", lambda r: r["cells_per_second"]["plain"].update(least=1e3), "not between least and most"),
        (
            "network_forward",
            lambda r: r["cells_per_second"].update({"plain": dict.fromkeys(("median", "least", "most"), 2.0)}),
            "rate of plain is not its cells over its seconds",
        ),
        (
            "network_forward",
            lambda r: r["ratio"].update({k: dict.fromkeys(("median", "least", "most"), 9.0) for k in r["ratio"]}),
            "is not that of the seconds",
        ),
        (
            "network_forward",
            lambda r: r["gflop_per_cell"].update(plain=1e4),
            "times the operations of a matrix product",
        ),
        ("network_forward", lambda r: r["share_of_matrix_product_rate"].update(plain=0.1), "share of plain"),
        ("scaling", lambda r: r["exponent"].update(rln=0.9), "exponent of rln is not"),
        ("scaling", lambda r: r["median_seconds"]["fln"].reverse(), "medians of fln are not"),
        ("scaling", lambda r: r["seconds_by_size"]["fln"].reverse(), "less time for more voxels"),
        ("memory", lambda r: r["bytes_per_voxel"].update({"RLN, float32, 1 of 64": 3}), "do not make its peak"),
        ("memory", lambda r: r["machine"].update(memory_mebibytes=1), "more memory than the machine has"),
        ("time_accuracy_16", lambda r: r["rows"][0]["mase_percent"].reverse(), "error grows"),
        ("time_accuracy_16", lambda r: r["rows"][0]["steps"].pop(), "differ in length"),
        (
            "time_accuracy_16",
            lambda r: r["rows"][0]["seconds_a_cell"].__setitem__(0, 1e-9),
            "not between least and most",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_record_is_refused(name, change, fault):
    assert fault in broken(name, change)
    assert broken(name, lambda record: None) == ""


def test_the_build_stops_at_a_wrong_record(tmp_path, monkeypatch):
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "benchmarks_introduction.md").write_text("# Benchmarks\n")
    target = tmp_path / "benchmarks" / "results" / "scaling.json"
    monkeypatch.setattr(build, "ROOT", tmp_path)
    target.write_text(json.dumps(FOUND["scaling"]))
    assert "Seconds a cell" in build.benchmarks_page()
    record = copy.deepcopy(FOUND["scaling"])
    record["exponent"]["rln"] = 2.0
    target.write_text(json.dumps(record))
    with pytest.raises(build.Failure, match=r"scaling\.json: the exponent of rln"):
        build.benchmarks_page()


def test_the_numbers_of_the_page_are_those_of_the_records():
    text = benchmark_page.page(FOUND, "# Benchmarks")
    for name, record in FOUND.items():
        section = text.split(f"\n`{name}.json`")[1].split("\n## ")[0]
        for side, rate in record.get("cells_per_second", {}).items():
            assert f"| {side} | {rate['median']:.4g} | {rate['least']:.4g} | {rate['most']:.4g} |" in section
        for pair, ratio in record.get("ratio", {}).items():
            assert f"| {pair} | {ratio['median']:.4g} |" in section
    assert "| RLN, float32" in text and ("not measured" in text) != any(r["machine"].get("gpu") for r in FOUND.values())


def test_the_limit_of_a_prediction_is_its_ratio_at_the_full_rate_of_the_machine():
    record = copy.deepcopy(FOUND["network_forward"])
    limits = {precision: ratio for precision, _, ratio in benchmark_page.limits(record)}
    rates = {side: rate["median"] for side, rate in record["cells_per_second"].items()}
    plain = max(rate for side, rate in rates.items() if side.startswith("plain"))
    peak = record["matrix_product_gflop_per_second"]["matrix product"]["median"]
    # The median of the ratios by turn is not the ratio of the medians: as if all turns had been alike, they are.
    (pair,) = (sides for sides in record["ratio"] if sides.startswith("rlnlib / plain"))
    record["ratio"][pair]["median"] = rates["rlnlib"] / plain
    even = {precision: ratio for precision, _, ratio in benchmark_page.limits(record)}
    assert even["float32"] == pytest.approx(peak / record["gflop_per_cell"]["rlnlib"] / plain, rel=1e-3)
    assert f"{limits['float32']:.4g} times the plain one" in benchmark_page.page(FOUND, "# Benchmarks")


def test_the_limit_of_the_solver_leaves_out_what_is_no_part_of_an_iteration():
    record = copy.deepcopy(FOUND["solver_against_mugrid_1"])
    whole, alone, ratio = benchmark_page.solver_limit(record)
    assert alone < whole and f"would be {ratio:.4g} times muGrid" in benchmark_page.page(FOUND, "# Benchmarks")
    record["nanoseconds_per_voxel_and_iteration"]["rlnlib, whole solve, core time"] = alone
    assert benchmark_page.solver_limit(record)[2] == pytest.approx(record["ratio_to_mugrid"]["mugrid float32"])


def test_a_bound_is_reached_or_not_as_its_number_says():
    values = {what: (value, sense, bound) for what, value, sense, bound in benchmark_page.bounds(FOUND)}
    assert len(values) >= 6
    text = benchmark_page.page(FOUND, "# Benchmarks")
    for what, (value, sense, bound) in values.items():
        reached = value >= bound if sense == "at least" else value <= bound
        verdict = "reached" if reached else "not reached"
        assert f"| {what} | {value:.4g} | {sense} {bound:g} | {verdict} |" in text
