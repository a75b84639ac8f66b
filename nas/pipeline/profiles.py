"""Measures the latency profiles of a study's devices, and predicts the costs of candidates from the profiles.

The search compares these costs with the budgets.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from nas.device import Device
from nas.errors import DeviceError
from nas.files import digest, file_digest
from nas.latency.measure import Texts, conditions
from nas.latency.profile import Profile
from nas.latency.profiling import ProfileRecipe, build_profile
from nas.pipeline.data import splits
from nas.pipeline.run import Run, once
from nas.pipeline.teachers import teacher_config
from nas.progress import Stopwatch
from nas.runtimes import check_runtime, runtime_of
from nas.runtimes.runner import environment
from nas.search.costs import Costs

_TEXT_COUNT = 256
"""Number of texts of the search set whose tokens are the networks' input when latency is measured."""


@once
def devices(run: Run) -> tuple[Device, ...]:
    """Return the study's devices. A device with `sequence_length = "task"` gets the lengths of the search set's texts.

    Texts with fewer than `search.least_tokens` tokens are ignored, since no candidate is evaluated on such texts.
    """
    if all(device.sequence_length != "task" for device in run.study.devices):
        return run.study.devices
    least_tokens = run.study.search.least_tokens
    lengths = [length for length in splits(run).search["length"] if length >= least_tokens]
    return tuple(device.with_lengths_of(lengths) for device in run.study.devices)


def device_of(run: Run, name: str) -> Device:
    """Return the device called `name`, with the sequence lengths at which networks are measured on it."""
    return next(device for device in devices(run) if device.name == name)


@once
def texts(run: Run) -> Texts:
    """Return token ids from texts of the search set, which are the networks' input when latency is measured."""
    return Texts(tuple(chain.from_iterable(splits(run).search[:_TEXT_COUNT]["input_ids"])))


@once
def recipes(run: Run) -> list[ProfileRecipe]:
    """Return one recipe per device. A recipe contains everything that a profile depends on, except the machine."""
    study, config, input_texts = run.study, teacher_config(run), texts(run)
    limits = [limits for budget in study.budgets for limits in budget.limits]
    memory_limited = {limit.device for limit in limits if limit.peak_memory_mb is not None}
    return [
        ProfileRecipe(device, study.space, config, study.seed, device.name in memory_limited, input_texts)
        for device in devices(run)
    ]


def fingerprint(device: Device) -> str:
    """Return a string that identifies the device's machine and runtime.

    An off-cluster device cannot be queried, so its fingerprint is always "elsewhere". Raises `DeviceError` if the
    runtime is not installed.
    """
    check_runtime(device)
    if device.where == "elsewhere":
        return "elsewhere"
    is_here = device.where == "here"
    found = environment(device.model_dump(), runtime_of(device).module) if is_here else conditions(device)
    identity: str = found["fingerprint"]
    return identity


def recipe_of(run: Run, device: str) -> ProfileRecipe:
    """Return the recipe of one device; see `recipes`."""
    return next(recipe for recipe in recipes(run) if recipe.device.name == device)


def profile_inputs(run: Run, device: str) -> str:
    """Return the digest of everything that the profile of a device depends on, including the machine."""
    recipe = recipe_of(run, device)
    return digest([recipe.digest, fingerprint(recipe.device)])


def samples_of(run: Run, device: str) -> Path:
    """Return the path of the file with the measurements from which a device's profile is computed."""
    return run.profile(device).with_suffix(".samples.json")


def make_profile(run: Run, stopwatch: Stopwatch, device: str) -> None:
    """Measure and save the profile of a device on this machine or in the Ray cluster."""
    measured_profile = build_profile(recipe_of(run, device), profile_inputs(run, device), samples_of(run, device))
    measured_profile.save(run.profile(device))


def refuse_unmeasured(run: Run) -> None:
    """Raise `DeviceError` if the profile of an off-cluster device is missing or out of date."""
    off_cluster = [device.name for device in run.study.devices if device.where == "elsewhere"]
    missing = [name for name in off_cluster if not run.is_done(f"profile-{name}", profile_inputs(run, name))]
    if missing:
        raise DeviceError(
            f"devices.{missing[0]}: is off the cluster and has no profile for this search space yet; write a bundle "
            f"with `nas device bundle {run.study.path} {missing[0]}`, run it on the device, and import its result with "
            "`nas device import`" + (f"; do the same for {', '.join(missing[1:])}" if missing[1:] else "")
        )


def profiles_of(run: Run) -> dict[str, Profile]:
    """Load the profiles of the study's devices, keyed by device name."""
    return {device.name: Profile.load(run.profile(device.name)) for device in run.study.devices}


@once
def costs_of(run: Run) -> Costs:
    """Return an object that predicts the costs of candidates from the latency profiles of the devices."""
    return Costs(teacher_config(run), profiles_of(run), run.study.budgets)


def check_feasible(run: Run) -> None:
    """Raise `InfeasibleBudgetError` if there is a budget that no sub-network can meet, according to the profiles."""
    costs_of(run).check_feasible(run.study.space)


def measured_on(run: Run, *names: str) -> list[str]:
    """Return a list with the digest of the profile of each device in `names`, or of all devices by default.

    The list has an empty string for a device without a profile.
    """
    paths = [run.profile(name) for name in names or [device.name for device in run.study.devices]]
    return [file_digest(path) if path.exists() else "" for path in paths]
