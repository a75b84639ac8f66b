"""Which results a report shows as those of the current version of the study."""

from __future__ import annotations

from nas.files import write_json
from nas.pipeline import Run, exports, reports
from nas.pipeline.supernets import supernet_inputs


def test_results_of_an_older_supernet_are_not_shown(run):
    candidate, budget = {"trial": 7, "digest": "7", "architecture": {}}, run.study.budgets[1]
    with run.step("front", "", run.front):
        write_json(run.front, {"candidates": [candidate | {"trial": 5}, candidate], "budgets": {}})
    made_from = {
        budget.name: exports.export_inputs(run, budget, fine_tune=False),
        "trial-5": "of another candidate",
        "trial-7": exports.trial_inputs(run, candidate, fine_tune=True),
    }
    for name, inputs in made_from.items():
        with run.step(f"export-{name}", inputs, run.export(name)):
            run.export(name).mkdir(parents=True)
    write_json(run.folder / reports.RANKING_FILE, {"supernet": supernet_inputs(run)})
    assert exports.exported(run) == [budget.name, "trial-7"] and reports._ranking(run)
    other = run.study.supernet.model_copy(update={"steps": 31})
    later = Run(run.study.model_copy(update={"supernet": other}), run.folder)
    assert exports.exported(later) == [] and reports._ranking(later) is None
