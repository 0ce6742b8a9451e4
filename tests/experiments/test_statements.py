"""The experiments on the paper's statements: effects with intervals, and claims that the ledger knows."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ablation
import measured
import statements
import statements_of_data
import statements_of_networks
import statements_of_records
from rlnlib import networks, rln, weight_files
from rlnlib.book import claims

ROOT = Path(__file__).resolve().parents[2]
RECORD = json.loads((ROOT / "data" / "results" / "statements.json").read_text(encoding="utf-8"))
LEDGER = {entry.id: entry for entry in claims.load_claims(ROOT / "book" / "claims.yml")}


def test_each_claim_that_an_experiment_measures_is_in_the_ledger_and_measured_once():
    named = []
    for file in (ROOT / "experiments").glob("*.py"):
        named += re.findall(r"\bclaim\(\s*\"([\w-]+)\"", file.read_text(encoding="utf-8"))
    named += list(ablation.RATIOS)
    assert len(named) >= 60
    assert set(named) <= set(LEDGER)
    assert len(set(named)) == len(named)


def test_a_statement_on_ratios_is_bounded_where_the_trainings_measure_ratios():
    for name in ablation.RATIOS:
        assert LEDGER[name].least is not None or LEDGER[name].most is not None, name
    assert LEDGER["prelu-helps"].least == 1 and LEDGER["three-layers-work"].most == 2


def test_the_cases_have_names_of_their_own_and_say_what_they_ask():
    assert len(statements.CASES) >= 25
    assert all(case.__doc__ for case in statements.CASES.values())


def test_recorded_cases_are_those_of_the_shipped_weights():
    """After new weights were shipped, name the cases to ``experiments/statements.py --only``."""
    record = json.loads((ROOT / "data" / "results" / "statements.json").read_text(encoding="utf-8"))
    shipped = {entry["file"].removesuffix(".safetensors"): entry["sha256"] for entry in weight_files.catalogue()}
    stale = [
        name
        for name, case in record["cases"].items()
        if any(shipped.get(used) != digest for used, digest in case["weights"].items())
    ]
    assert not stale
    assert set(record["cases"]) == set(statements.CASES)
    assert sum(bool(case["weights"]) for case in record["cases"].values()) >= 15


def test_a_part_is_run_again_and_the_others_stay_as_recorded(tmp_path, monkeypatch):
    def case(name):
        def find():
            measured.used("fln", 10.0)
            return {"found": name, "claims": [measured.claim(name, True, note="x")]}

        return find

    monkeypatch.setattr(statements, "CASES", {name: case(name) for name in ("one", "two")})
    out, command = tmp_path / "record.json", ["statements.py", "--folder", str(tmp_path / "run"), "--out"]
    monkeypatch.setattr(sys, "argv", [*command, str(out)])
    statements.main()
    before = json.loads(out.read_text(encoding="utf-8"))
    assert before["cases"]["one"]["weights"].keys() == {"fln-10"}
    monkeypatch.setitem(statements.CASES, "one", case("other"))
    monkeypatch.setattr(sys, "argv", [*command, str(out), "--only", "one"])
    statements.main()
    after = json.loads(out.read_text(encoding="utf-8"))
    assert [one["claim"] for one in after["claims"]] == ["other", "two"]
    assert after["cases"]["two"] == before["cases"]["two"] and after["cases"]["one"]["claims"] == ["other"]


def test_the_interval_of_a_mean_is_the_bootstrap_s_and_contains_it():
    rows = np.random.default_rng(0).normal(2.0, 1.0, (400, 1))
    value, low, high = measured.bootstrap(lambda r: float(r.mean()), rows)
    assert low < value < high
    assert (high - low) / 2 == pytest.approx(1.96 / 20, rel=0.1)


def test_the_worst_of_several_effects_is_that_of_the_hardest_bound():
    effects = [(3.0, 2.0, 4.0), (2.5, 2.4, 2.6)]
    assert measured.least(effects) == (2.5, 2.0, 2.6)
    assert measured.most(effects) == (3.0, 2.4, 4.0)
    assert measured.of_seeds([1.0, 2.0, 4.5]) == (2.5, 1.0, 4.5)


def test_table_1_is_read_from_the_ledger():
    assert measured.row_of_table_1("rln", 50.0) == (2.92, 1.17)
    assert measured.row_of_table_1("comparison", 10.0) == (3.07, 1.22)


@pytest.mark.parametrize("case", ["without_green", "gradient"])
def test_what_a_statement_of_the_equations_measures_is_what_its_record_holds(case):
    recorded = {item["claim"]: item["value"] for item in RECORD["claims"]}
    for item in statements.CASES[case]()["claims"]:
        assert item["value"] == pytest.approx(recorded[item["claim"]], rel=0.01, abs=1e-10)


def run(variant, seed, error, peaks=10.0, unsteady=1.0, precision="32-true"):
    validation = [5.0, 4.0, 3.0, error]
    numbers = {"test_mase": error, "training_mase": error, "test_peaks": peaks, "unsteadiness": unsteady}
    return {"variant": variant, "seed": seed, "precision": precision, **numbers, "validation_mase": validation}


def test_an_effect_of_trainings_is_a_ratio_seed_by_seed():
    settings = {"train": 64, "test": 16, "size": 16, "contrast": 50.0, "epochs": 4}
    runs = [run("baseline", seed, 2.0) for seed in range(3)]
    runs += [run("ReLU", 0, 2.2), run("ReLU", 1, 1.9)]  # the third is not made yet
    found = {item["claim"]: item for item in ablation.claims(runs, settings)}
    assert found["prelu-helps"]["value"] == pytest.approx(1.025)
    assert found["prelu-helps"]["interval"] == pytest.approx([0.95 / 1.02, 1.1 * 1.02], rel=1e-4)
    assert found["prelu-helps"]["conditions"]["seeds"] == 2
    assert "cosine-decay-matters" not in found
    # No rise on either side is no sign of more or less.
    assert found["prelu-steadier"]["interval"] == [-ablation.ROUNDING, ablation.ROUNDING]
    for item in found.values():
        claims.checked(item)


def test_trainings_in_different_precisions_are_not_compared():
    settings = {"train": 64, "test": 16, "size": 16, "contrast": 50.0, "epochs": 4}
    runs = [run("baseline", seed, 2.0, precision="bf16-mixed") for seed in range(3)]
    runs += [run("ReLU", seed, 2.2) for seed in range(3)]
    assert "prelu-helps" not in {item["claim"] for item in ablation.claims(runs, settings)}
    runs += [run("baseline", seed, 1.1) for seed in range(2)]
    found = {item["claim"]: item for item in ablation.claims(runs, settings)}
    assert found["prelu-helps"]["value"] == pytest.approx(2.0)
    assert found["prelu-helps"]["conditions"]["seeds"] == 2


def test_the_claims_of_the_recorded_trainings_are_those_that_the_program_derives():
    """After a change of the rule, ``experiments/ablation.py --max-minutes 0.001 --out ...`` derives them again."""
    record = json.loads((ROOT / "data" / "results" / "ablation.json").read_text(encoding="utf-8"))
    assert record["claims"] == ablation.claims(record["runs"], record["settings"])


def test_runs_of_a_record_are_not_made_again_with_the_same_settings(tmp_path):
    settings, path = {"train": 64, "size": 16}, tmp_path / "ablation.json"
    assert ablation.made_before(None, settings) == ablation.made_before(path, settings) == []
    path.write_text(json.dumps({"settings": {**settings, "seeds": 3}, "runs": [run("ReLU", 1, 2.0)]}), encoding="utf-8")
    assert ablation.made_before(path, settings) == [run("ReLU", 1, 2.0)]
    assert ablation.made_before(path, {**settings, "train": 128}) == []


def test_every_variant_of_the_ablation_is_a_network_of_its_own():
    indicators = rln.phase_indicators(torch.rand(1, 8, 8, 8) > 0.5)
    outputs = {}
    for name in (
        "baseline",
        "ReLU",
        "two filter sizes",
        "one block more",
        "RLN-t with a hidden state",
        "RLN-t of 3 passes",
    ):
        torch.manual_seed(0)
        model = ablation.CASES[name].model()
        outputs[name] = model(indicators, return_iterates=True)
        assert len(outputs[name]) == model.passes
        assert torch.allclose(outputs[name][-1].mean(), torch.tensor(1.0), atol=1e-5)
    last = [fields[-1] for fields in outputs.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(last) for b in last[:i])


def test_a_fourier_layer_adds_nothing_at_first_and_a_wave_afterwards():
    torch.manual_seed(0)
    layer, field = ablation.Fourier(2, modes=4), torch.randn(1, 2, 8, 8, 8)
    assert torch.equal(layer(field), torch.zeros_like(field))
    with torch.no_grad():
        layer.weight[1, 0, 0, 1, 0] = 1.0
    added = layer(field)
    assert added[0, 0].abs().max() == 0
    assert torch.allclose(added[0, 1], added[0, 1].mean((0, 1), keepdim=True).expand(8, 8, 8), atol=1e-6)


def test_relu_takes_the_place_of_every_prelu():
    network = ablation.vnet_with_relu(6)
    assert not [layer for layer in network.modules() if isinstance(layer, networks.PReLU)]


def test_chords_are_periodic_runs_of_one_phase():
    line = np.array([1, 1, 0, 0, 0, 1], bool)
    cell = np.tile(line, (2, 2, 1))
    assert sorted(statements_of_data.chords(cell, 2)) == [3] * 8
    assert len(statements_of_data.chords(cell, 0)) == 0  # all of one phase


def test_shapes_have_both_phases_and_differ():
    for kind in ("spheres", "fibres", "laminates"):
        cells = statements_of_networks.shapes(kind, 4, 20, 0)
        part = cells.float().mean((1, 2, 3))
        assert bool((part > 0.1).all()) and bool((part < 0.9).all()), kind
        assert not torch.equal(cells[0], cells[1])


def test_seconds_are_compared_by_their_medians_and_extremes():
    assert statements_of_records.over([2.0, 1.0, 3.0], [1.0, 0.5, 2.0]) == (2.0, 0.5, 6.0)
