"""Profiles of the study's devices, and what candidates cost by them."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from nas.device import Device
from nas.errors import DeviceError
from nas.files import digest, file_digest
from nas.latency.measure import Texts, conditions
from nas.latency.profile import Profile
from nas.latency.profiling import Recipe, build_profile
from nas.latency.runner import environment
from nas.latency.runtimes import check_runtime
from nas.pipeline.prepare import splits
from nas.pipeline.run import Run, once
from nas.pipeline.teachers import teacher_config
from nas.progress import Laps
from nas.search.costs import Costs

_TEXTS = 256
"""So many texts of the search set give the tokens that networks are fed when they are measured."""


@once
def devices(run: Run) -> tuple[Device, ...]:
    """The study's devices; those with the task's own lengths have the lengths of what candidates are judged by."""
    if all(device.sequence_length != "task" for device in run.study.devices):
        return run.study.devices
    least = run.study.search.least_tokens
    lengths = [length for length in splits(run).search["length"] if length >= least]
    return tuple(device.with_lengths_of(lengths) for device in run.study.devices)


def device_of(run: Run, name: str) -> Device:
    """The device of a name, with the lengths that it is measured at."""
    return next(device for device in devices(run) if device.name == name)


@once
def texts(run: Run) -> Texts:
    """Real token ids to feed networks with, from the search set."""
    return Texts(tuple(chain.from_iterable(splits(run).search[:_TEXTS]["input_ids"])))


@once
def recipes(run: Run) -> list[Recipe]:
    """What the profile of each device is made from, but the machine."""
    study, config, fed = run.study, teacher_config(run), texts(run)
    limits = [limits for budget in study.budgets for limits in budget.limits]
    weighed = {found.device for found in limits if found.peak_memory_mb is not None}
    return [Recipe(device, study.space, config, study.seed, device.name in weighed, fed) for device in devices(run)]


def fingerprint(device: Device) -> str:
    """What identifies the device's machine and runtime. Raises `DeviceError` if the runtime is not installed.

    Of a device elsewhere it is known once its profile is imported, and stays.
    """
    check_runtime(device)
    if device.where == "elsewhere":
        return "elsewhere"
    here = device.where == "here"
    found: str = (environment(device.model_dump()) if here else conditions(device))["fingerprint"]
    return found


def recipe_of(run: Run, device: str) -> Recipe:
    """What the profile of one device is made from, but the machine."""
    return next(recipe for recipe in recipes(run) if recipe.device.name == device)


def profile_inputs(run: Run, device: str) -> str:
    """The digest of what the profile of a device is made from, the machine included."""
    recipe = recipe_of(run, device)
    return digest([recipe.digest, fingerprint(recipe.device)])


def samples_of(run: Run, device: str) -> Path:
    """The file with all measurements for the profile of a device."""
    return run.profile(device).with_suffix(".samples.json")


def make_profile(run: Run, laps: Laps, device: str) -> None:
    """Measure the profile of a device that can be reached from here."""
    built = build_profile(recipe_of(run, device), profile_inputs(run, device), samples_of(run, device))
    built.save(run.profile(device))


def refuse_unmeasured(run: Run) -> None:
    """Raise `DeviceError` if the profile of a device elsewhere is not there yet."""
    away = [device.name for device in run.study.devices if device.where == "elsewhere"]
    lacking = [name for name in away if not run.is_done(f"profile-{name}", profile_inputs(run, name))]
    if lacking:
        raise DeviceError(
            f"devices.{lacking[0]}: is off the cluster and has no profile of this space yet; run "
            f"`nas device bundle {run.study.path} {lacking[0]}`, measure there, and `nas device import` the result"
            + (f"; likewise {', '.join(lacking[1:])}" if lacking[1:] else "")
        )


def profiles_of(run: Run) -> dict[str, Profile]:
    """The profiles of the study's devices."""
    return {device.name: Profile.load(run.profile(device.name)) for device in run.study.devices}


@once
def costs_of(run: Run) -> Costs:
    """What candidates cost by the profiles."""
    return Costs(teacher_config(run), profiles_of(run), run.study.budgets)


def check_feasible(run: Run) -> None:
    """Raise `InfeasibleBudgetError` if no sub-network can meet a budget, by the profiles."""
    costs_of(run).check_feasible(run.study.space)


def measured_on(run: Run, *names: str) -> list[str]:
    """The digests of the profiles of all devices, or of those named, as they were measured; "" where none is there."""
    paths = [run.profile(name) for name in names or [device.name for device in run.study.devices]]
    return [file_digest(path) if path.exists() else "" for path in paths]
