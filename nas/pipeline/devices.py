"""Writes archives (bundles) with which networks are measured on off-cluster devices, and imports the measurements.

An off-cluster device is a machine outside the Ray cluster, on which `nas` need not be installed. `nas device bundle`
and `nas device import` call these functions, both to profile devices and to verify exports.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.budget import Budget
from nas.errors import DeviceError, ExportError, StudyError
from nas.export.artefact import SAMPLES_FILE, VERIFICATION_FILE
from nas.export.verification import (
    Artefact,
    Reference,
    exits_of,
    on_all,
    on_each,
    served_networks,
    stored_metrics,
    timing_entries,
)
from nas.files import canonical_json, digest, read_json, write_json, write_text
from nas.latency.bundle import VERSION, Job
from nas.latency.exits import at_each_depth, mixed
from nas.latency.measure import Texts
from nas.latency.profile import Profile
from nas.latency.profiling import BLOCK_ROUNDS, WHOLE_ROUNDS, ProfileRecipe
from nas.pipeline.exports import is_exported, record_miss, reference_of
from nas.pipeline.profiles import profile_inputs, recipe_of, texts
from nas.pipeline.run import Run
from nas.pipeline.runner import bring_up_to_date
from nas.pipeline.steps import steps_of
from nas.report.card import write_card

_MOST_ERROR = 0.5
"""Measurements are rejected as implausible if the mean relative error of the predicted latencies exceeds this fraction,
or if the teacher is faster than the smallest sub-network by more than this fraction."""


def bundle_profile(run: Run, device: str, output: Path, variables: Sequence[str] = ()) -> Path:
    """Write an archive with which the profile of an off-cluster device is measured; return its path, `output`.

    The user unpacks the archive on the device and runs it there. The archive's README contains the command that imports
    the measurements. This command repeats the `--set` options in `variables`, each in the form `NAME=VALUE`.
    """
    bring_up_to_date(run, steps_of(run), "teacher")
    _check_off_cluster(run, device)
    recipe = recipe_of(run, device)
    _profile_job(recipe).write(output, _command(run, device, variables))
    return output


def import_profile(run: Run, device: str, result: Path) -> Profile:
    """Build an off-cluster device's profile from the file `result`, store the profile in the run, and return it.

    Raises `DeviceError` if the measurements belong to a different bundle, or are implausible.
    """
    bring_up_to_date(run, steps_of(run), "teacher")
    _check_off_cluster(run, device)
    recipe, inputs = recipe_of(run, device), profile_inputs(run, device)
    records, peaks = _profile_job(recipe).read(result)
    blocks = {name: record for name, record in records.items() if name not in recipe.sub_networks}
    whole_networks = {name: records[name] for name in recipe.sub_networks}
    profile = recipe.profile(blocks, whole_networks, peaks)
    is_teacher_too_fast = profile.teacher_p50_ms < (1.0 - _MOST_ERROR) * profile.smallest_p50_ms
    if is_teacher_too_fast or profile.error["mape"] > _MOST_ERROR:
        implausible = (
            "the teacher must not be much faster than the smallest sub-network, but takes "
            f"{profile.teacher_p50_ms:.4g} ms, and the sub-network takes {profile.smallest_p50_ms:.4g} ms"
            if is_teacher_too_fast
            else f"the measured latencies of complete networks may differ by at most {_MOST_ERROR:.0%} on average from "
            f"those predicted from the measured blocks, but differ by {profile.error['mape']:.0%}"
        )
        raise DeviceError(f"{result}: {implausible}; measure again while nothing else runs on the device")
    path = run.profile(device)
    with run.step(f"profile-{device}", inputs, path):
        profile.save(path)
    return profile


def bundle_export(run: Run, budget: str, device: str, output: Path, variables: Sequence[str] = ()) -> Path:
    """Write an archive with which a budget's export is measured on an off-cluster device; see `bundle_profile`."""
    job, _, _ = _export_job(run, budget, device)
    job.write(output, f"{_command(run, device, variables)} --export {shlex.quote(budget)}")
    return output


def import_verification(run: Run, budget: str, device: str, result: Path) -> dict[str, Any]:
    """Add an off-cluster device's measurements to the `verification.json` of an export; return the file's new content.

    If the export misses its budget on the device, record the miss. The next `nas export` then exports the next best
    candidate.
    """
    job, requested_budget, verification = _export_job(run, budget, device)
    records, peaks = job.read(result)
    by_device = on_each(verification)
    on_this_device = by_device[device]
    reference = _reference(run, device)
    timings = timing_entries(
        mixed(records, exits_of(on_this_device.get("exits", ()))),
        peaks,
        requested_budget.on(device),
        {name: on_this_device[name] for name in ("size_mb", "params")},
        stored_metrics(Artefact(reference.folder, job.device)),
    )
    path = run.export(budget) / SAMPLES_FILE
    samples = read_json(path, ExportError) | {device: timings.pop("samples_ms")}
    write_text(path, canonical_json(samples) + "\n")
    verification |= on_all(by_device | {device: on_this_device | timings})
    if verification["met"] is False:  # recorded first, so that the export is outdated even if the process is killed now
        record_miss(run, requested_budget, verification["architecture"])
    write_json(run.export(budget) / VERIFICATION_FILE, verification)
    write_card(run.export(budget), run.study)
    return verification


def _reference(run: Run, device: str) -> Reference:
    bring_up_to_date(run, steps_of(run), f"baselines-{device}")
    return reference_of(run, device)


def _check_off_cluster(run: Run, name: str) -> None:
    """Raise `StudyError` unless `name` is a device outside the cluster."""
    devices = {device.name: device for device in run.study.devices}
    if name not in devices:
        raise StudyError(f"{run.study.path}: there is no device {name!r}; use one of {', '.join(devices)}")
    if devices[name].where != "elsewhere":
        raise StudyError(
            f"{run.study.path}: devices.{name}: can be reached from here (where = {devices[name].where!r}) and needs "
            "no bundle; run nas profile, or set where = 'elsewhere'"
        )


def _profile_job(recipe: ProfileRecipe) -> Job:
    blocks, whole_networks = recipe.blocks(), recipe.whole()
    return Job(
        recipe.device,
        digest([VERSION, "profile", recipe.digest]),
        [(recipe.with_reference(blocks), BLOCK_ROUNDS), (recipe.with_reference(whole_networks), WHOLE_ROUNDS)],
        recipe.texts,
        recipe.tokens_of(blocks),
        {name: whole_networks[name] for name in recipe.memory_measured()},
    )


def _export_job(run: Run, budget: str, device: str) -> tuple[Job, Budget, dict[str, Any]]:
    """Return a tuple: the measurement job for an export, the budget, and the content of `verification.json`."""
    _check_off_cluster(run, device)
    requested_budget = next((item for item in run.study.budgets if item.name == budget), None)
    limits = requested_budget.on(device) if requested_budget else None
    if requested_budget is None or limits is None:
        budget_names = ", ".join(item.name for item in run.study.budgets if item.on(device))
        raise StudyError(
            f"{run.study.path}: there is no budget {budget!r} with limits on device {device}; use "
            f"{f'one of {budget_names}' if budget_names else 'a different device'}"
        )
    folder = run.export(budget)
    if not is_exported(run, requested_budget):
        raise ExportError(f"{folder}: contains no export that is up to date with the study; run nas export first")
    recipe = recipe_of(run, device)
    verification = read_json(folder / VERIFICATION_FILE, ExportError)
    on_this_device = on_each(verification)[device]
    reference = _reference(run, device)
    artefact, input_texts = Artefact(folder, recipe.device), texts(run)
    exits = on_this_device.get("exits", ())
    served = served_networks(artefact, reference, exits)
    files = [*artefact.digests, *Artefact(reference.folder, recipe.device).digests]
    job = Job(
        recipe.device,
        digest([VERSION, "verification", files, recipe.device.model_dump(mode="json")]),
        [(at_each_depth(served, exits_of(exits)), recipe.device.repeats)],
        Texts(input_texts.ids, recipe.config.vocab_size),
        memory=served if limits.peak_memory_mb else {},
    )
    return job, requested_budget, verification


def _command(run: Run, device: str, variables: Sequence[str]) -> str:
    study, runs = (shlex.quote(str(path)) for path in (run.study.path, run.folder.parent))
    options = "".join(f" --set {shlex.quote(variable)}" for variable in variables)
    return f"nas device import {study} {device} result.json --runs {runs}{options}"
