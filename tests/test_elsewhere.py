"""A study with three devices, one of which is measured with archives that its user runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from simulated import samples_ms
from tiny import TINY_STUDY

from nas.errors import DeviceError, StudyError
from nas.pipeline import Run, devices, export
from nas.pipeline.devices import bundle_export, bundle_profile, import_profile, import_verification
from nas.study import Study

pytestmark = pytest.mark.slow

# Two more devices for the tiny study, and budgets of which each has limits on two devices.
DEVICES = """
[[devices]]
name = "batches"
batch_size = 8
sequence_length = { 8 = 3, 16 = 1 }

[[devices]]
name = "pi"
where = "elsewhere"
sequence_length = 16
warm_up = 1
repeats = 3
"""
BUDGETS = """
[[budgets]]
name = "both"
limits = [
    { device = "cpu", p50_ms = "80%", p95_ms = "300%" },
    { device = "batches", throughput_per_s = "110%", peak_memory_mb = 4000 },
]

[[budgets]]
name = "away"
limits = [{ device = "pi", p50_ms = "80%" }, { device = "cpu", size_mb = "90%" }]

"""


@pytest.fixture
def study(finished_study, tmp_path):
    """The finished tiny study with two more devices, which have not been measured."""
    path = shutil.copytree(finished_study.parent, tmp_path / "tiny") / finished_study.name
    first, last = TINY_STUDY.index("[[budgets]]"), TINY_STUDY.index("[supernet]")
    path.write_text(TINY_STUDY[:first].replace('"tiny"', '"few.toml"') + DEVICES + BUDGETS + TINY_STUDY[last:])
    return path


def _measure(archive, folder):
    """Do what the user of the device does, and return the file with the measurements."""
    folder.mkdir()
    with zipfile.ZipFile(archive) as bundle:
        bundle.extractall(folder)
    subprocess.run([sys.executable, "run.py"], cwd=folder, check=True, capture_output=True)
    return folder / "result.json"


def _simulate_times(folder):
    """Replace all measured times by simulated ones, so that the same networks are exported in every run."""
    job, content = (json.loads((folder / name).read_text()) for name in ("job.json", "result.json"))
    with zipfile.ZipFile(folder / "networks.zip") as networks:
        for group, measured in zip(job["groups"], content["groups"], strict=True):
            for item in group["networks"]:
                assert min(measured["samples_ms"][item["name"]][0]) > 0.0
                measured["samples_ms"][item["name"]] = samples_ms(item, networks.getinfo(item["file"]).file_size)
    (folder / "result.json").write_text(json.dumps(content))


def _replace_times(result, share):
    """Make every time of the export in a file of measurements `share` times the teacher's time beside it."""
    content = json.loads(result.read_text())
    samples = content["groups"][0]["samples_ms"]
    samples["export"] = [[share * sample for sample in round_] for round_ in samples["teacher"]]
    result.write_text(json.dumps(content))


def test_archives_lead_from_the_profile_to_an_export_and_a_missed_budget_to_another_export(
    study, nas, tmp_path, simulated_times, monkeypatch
):
    """The latencies on this machine are simulated. The archives are measured in two rounds."""
    monkeypatch.setattr(devices, "BLOCK_ROUNDS", 2)
    monkeypatch.setattr(devices, "WHOLE_ROUNDS", 2)
    runs = study.parent / "runs"
    run = Run.of(Study.load(study), runs)
    with pytest.raises(DeviceError, match="nas device bundle"):
        export(run)

    with pytest.raises(StudyError, match="needs no bundle"):
        bundle_profile(run, "cpu", tmp_path / "cpu.zip")
    output, _ = nas("device", "bundle", study, "pi", "--output", tmp_path / "pi.zip", "--runs", runs, "--json")
    assert json.loads(output.splitlines()[-1])["bundle"] == str(tmp_path / "pi.zip")
    result = _measure(tmp_path / "pi.zip", tmp_path / "pi")
    _simulate_times(result.parent)
    broken = tmp_path / "broken.json"
    broken.write_text(result.read_text().replace('"job": "', '"job": "x'))
    with pytest.raises(DeviceError, match="a different bundle"):
        import_profile(run, "pi", broken)
    output, _ = nas("device", "import", study, "pi", result, "--runs", runs, "--json")
    assert json.loads(output.splitlines()[-1])["pi"]["networks"] == 24

    verified = export(run)
    both = verified["both"]
    assert both["met"] is True and set(both["devices"]) == {"cpu", "batches"}
    assert both["p50_ms"] <= 0.8 * both["teacher_p50_ms"] and both["device"] == "cpu"
    batches = both["devices"]["batches"]
    assert batches["met"] is True and 5 < batches["peak_memory_mb"] < 4000
    assert batches["throughput_per_s"] == pytest.approx(8000 / batches["expected_ms"])

    away = verified["away"]
    assert away["met"] is None and away["p50_ms"] is None and away["devices"]["cpu"]["met"] is True
    bundle_export(run, "away", "pi", tmp_path / "export.zip")
    result = _measure(tmp_path / "export.zip", tmp_path / "export")
    _replace_times(result, 0.5)
    found = import_verification(run, "away", "pi", result)
    assert found["met"] is True and found["speed_up"] == pytest.approx(2.0)

    # If the device misses the budget, the next export is another network.
    _replace_times(result, 1000.0)
    first = found["architecture"]
    assert import_verification(run, "away", "pi", result)["met"] is False
    again = export(run)["away"]
    assert again["architecture"] != first and again["met"] is None
    with pytest.raises(DeviceError, match="a different bundle"):  # the measurements belong to the first export
        import_verification(run, "away", "pi", result)

    nas("report", study, "--runs", runs)
    page = (runs / "tiny" / "report.html").read_text()
    assert "not measured yet" in page and "throughput" in page
