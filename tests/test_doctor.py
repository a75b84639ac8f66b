"""`nas doctor` reports what a machine supports, and exits with code 2 if something is missing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nas import doctor
from nas.errors import DeviceError
from nas.study import Study

PACKAGES = ["torch", "transformers", "ray", "optuna", "datasets", "pydantic", "sqlalchemy", "numpy"]


def test_without_a_study_it_reports_packages_runtimes_and_the_machine(nas):
    output, _ = nas("doctor", "--json")
    result = json.loads(output.splitlines()[-1])
    found = {(item["about"], item["name"]): item for item in result["findings"]}
    assert result["missing"] == [] and {about for about, _ in found} == {"packages", "runtimes", "machine"}
    assert found["runtimes", "onnxruntime"]["state"] == "ok" and "CPU" in found["runtimes", "onnxruntime"]["detail"]
    assert found["packages", "torch"]["state"] == "ok" and "GB" in found["machine", "memory"]["detail"]
    assert all(item["name"] in output and item["detail"] for item in result["findings"])


def _never_loaded():
    raise AssertionError("the study must not be loaded, because packages that it needs may be missing")


def test_a_package_that_is_not_installed_or_too_new_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy<1", "no-such-package>=2", "openvino; extra == 'x'"])
    found = {finding.name: finding for finding in doctor.examine(_never_loaded)}
    assert set(found) == {"python", "numpy", "no-such-package", "the rest"}
    assert found["numpy"].state == "missing" and "<1 is needed" in found["numpy"].detail
    assert found["no-such-package"].detail == "pip install 'no-such-package>=2'"


def test_it_starts_even_if_heavy_packages_cannot_be_imported():
    script = f"import sys; sys.modules.update(dict.fromkeys({PACKAGES}))\n"
    subprocess.run([sys.executable, "-c", script + "import nas.doctor, nas.cli, nas.report.terminal"], check=True)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx2 avx512f avx512_vnni avx512_bf16 amx_int8 amx_bf16", {"int8": "AMX", "bf16": "AMX", "fp32": "AVX-512"}),
        ("avx2 avx_vnni", {"int8": "VNNI", "bf16": "no instruction", "fp32": "AVX2"}),
        ("sse2", {"int8": "no int8 instruction", "bf16": "no instruction", "fp32": "no AVX2"}),
    ],
)
def test_it_names_the_instructions_of_the_processor(monkeypatch, flags, expected):
    monkeypatch.setattr("nas.runtimes.runner.cpuinfo", lambda key: flags if key == "flags" else "")
    found = {finding.name: finding for finding in doctor.examine() if finding.about == "machine"}
    assert all(words in found[name].detail for name, words in expected.items())
    assert all((found[name].state == "note") == words.startswith("no") for name, words in expected.items())


def test_a_study_that_lacks_nothing_exits_with_0(nas, tiny_study):
    output, _ = nas("doctor", tiny_study, "--json")
    result = json.loads(output.splitlines()[-1])
    needs = {item["name"]: item["state"] for item in result["findings"] if item["about"] == "study"}
    expected = ("device cpu", "compression", "teacher", "train", "test", "rows", "memory")
    assert needs == dict.fromkeys(expected, "ok")


def test_a_study_that_lacks_something_exits_with_2(nas, tiny_study, monkeypatch):
    def without_onnxruntime(device):
        raise DeviceError(f"devices.{device.name}: the runtime is not installed; pip install onnxruntime")

    monkeypatch.setattr("nas.runtimes.check_runtime", without_onnxruntime)
    (tiny_study.parent / "test.parquet").unlink()
    (tiny_study.parent / "teacher" / "config.json").unlink()
    output, _ = nas("doctor", tiny_study, "--json", code=2)
    assert json.loads(output.splitlines()[-1])["missing"] == ["device cpu", "teacher", "test"]
    assert "pip install onnxruntime" in output


def test_a_missing_database_driver_and_missing_gpus_are_named_without_the_password(nas, tiny_study, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    search = '[search]\nstorage = "postgresql+pg8000://u:s3cret@h/n"\nexecutor = "ray"\nworker_gpus = 1'
    tiny_study.write_text(tiny_study.read_text().replace("[search]", search))
    output, _ = nas("doctor", tiny_study, "--json", code=2)
    assert json.loads(output.splitlines()[-1])["missing"] == ["storage", "GPUs"]
    assert "needs the package pg8000" in output and "s3cret" not in output


def test_a_missing_package_exits_with_2_without_a_study_too(nas, monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda _: ["no-such-package>=2"])
    output, _ = nas("doctor", "--json", code=2)
    assert json.loads(output.splitlines()[-1])["missing"] == ["no-such-package"]


def test_a_cluster_that_does_not_answer_is_missing(tiny_study, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    text = tiny_study.read_text().replace('name = "cpu"\n', 'name = "cpu"\nwhere = "ray"\n')
    tiny_study.write_text(text)
    found = {(item.about, item.name): item for item in doctor.examine(lambda: Study.load(tiny_study))}
    assert found["machine", "ray"].state == found["study", "cluster for cpu"].state == "missing"
    assert "none was found at '127.0.0.1:1'" in found["machine", "ray"].detail


def test_the_built_in_study_needs_no_files():
    found = [item for item in doctor.examine(lambda: Study.load("quickstart")) if item.about == "study"]
    assert [item.name for item in found] == ["device cpu-1-thread", "compression", "teacher", "memory"]


def test_it_reports_free_space_and_folders_that_are_not_writable(monkeypatch):
    def disk():
        return next(finding for finding in doctor.examine() if finding.name == "disk")

    assert disk().state == "ok" and disk().detail.count("GB") == 2
    monkeypatch.setattr("os.access", lambda *arguments, **options: False)
    assert disk().state == "note" and "--runs" in disk().detail
    monkeypatch.setattr("tempfile.gettempdir", lambda: (_ for _ in ()).throw(FileNotFoundError("no place")))
    assert disk().state == "note" and "TMPDIR" in disk().detail
