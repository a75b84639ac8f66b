"""A study can be run with several seeds, and the spread of their accuracies is reported."""

from __future__ import annotations

import json

import pytest

from nas.files import write_json
from nas.pipeline.seeds import keep_spread, runs_of_seeds, spread, spread_of


def _verified(accuracy):
    return {"accuracy": accuracy, "metric": "accuracy", "p50_ms": 1.0, "met": True, "description": "h16"}


def test_further_seeds_have_folders_next_to_that_of_the_first_seed(run):
    found = runs_of_seeds(run, 3)
    assert list(found) == [0, 1, 2] and found[0] is run
    assert [each.folder.name for each in found.values()] == ["tiny", "tiny-seed-1", "tiny-seed-2"]
    assert {each.folder.parent for each in found.values()} == {run.folder.parent}
    assert [each.study.seed for each in found.values()] == [0, 1, 2]


def test_the_spread_contains_the_mean_and_its_standard_error():
    verified = {seed: {"small": _verified(value)} for seed, value in enumerate((0.80, 0.82, 0.84))}
    (found,) = spread(verified).values()
    assert found["accuracies"] == [0.80, 0.82, 0.84] and found["mean"] == pytest.approx(0.82)
    assert found["standard_error"] == pytest.approx(0.02 / 3**0.5)
    assert spread({0: {"small": _verified(0.8)}})["small"]["standard_error"] is None


def test_a_budget_without_an_export_for_one_of_the_seeds_has_no_spread():
    assert list(spread({0: {"small": _verified(0.8), "large": _verified(0.9)}, 1: {"large": _verified(0.9)}})) == [
        "large"
    ]


@pytest.mark.slow
def test_two_seeds_make_two_runs_and_one_table(nas, finished_study, simulated_times):
    """The run of the first seed exists already."""
    runs = finished_study.parent / "runs"
    output, _ = nas("run", finished_study, "--runs", runs, "--seeds", "2", "--json")
    found = json.loads(output.splitlines()[-1])["seeds"]
    assert set(found) == {"large", "small"}
    for name, each in found.items():
        own = [json.loads((folder / "exports" / name / "verification.json").read_text()) for folder in _folders(runs)]
        assert each["seeds"] == [0, 1] and each["accuracies"] == [one["accuracy"] for one in own]
    assert "Several seeds" in output and "Several seeds" in (runs / "tiny" / "report.html").read_text()


def _folders(runs):
    return [runs / "tiny", runs / "tiny-seed-1"]


def test_a_stored_spread_is_valid_only_for_the_exports_that_it_was_computed_from(run):
    assert spread_of(run) == {}
    verification = run.export("small") / "verification.json"
    write_json(verification, _verified(0.8))
    found = spread({0: {"small": _verified(0.8)}, 1: {"small": _verified(0.9)}})
    keep_spread(run, found)
    assert spread_of(run) == json.loads(json.dumps(found))
    write_json(verification, _verified(0.7))
    assert spread_of(run) == {}
    verification.unlink()
    assert spread_of(run) == {}
