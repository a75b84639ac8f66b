"""Finds outdated results of a run. A result is outdated if an older `nas` computed it, or if its inputs have changed.

The report and `nas front` still show such results, together with the warning that `outdated` returns.
"""

from __future__ import annotations

from nas.device import Device
from nas.errors import DeviceError, NasError
from nas.latency.profile import Profile
from nas.pipeline.profiles import devices
from nas.pipeline.run import Run
from nas.pipeline.searches import front, has_ended, search_inputs
from nas.pipeline.sources import teacher_inputs
from nas.pipeline.supernets import supernet_inputs


def outdated(run: Run) -> str:
    """Return a line that names a run's outdated results and the command to rebuild them; empty if there are none.

    Results that were measured on a different machine do not count as outdated, since a run may be viewed on any
    machine. This function does not access the database of the search.
    """
    try:
        outdated_names = _outdated_steps(run)
    except NasError:  # the files to compare with are missing; `nas run` reports this
        return ""
    if not outdated_names:
        return ""
    return (
        "Outdated results, because the study or nas has changed since they were computed: "
        f"{', '.join(outdated_names)}; run nas run to rebuild them"
    )


def _outdated_steps(run: Run) -> list[str]:
    """Return which of these finished results `nas run` would rebuild: teacher, supernet, profiles and front."""
    made_from = {"teacher": teacher_inputs, "supernet": supernet_inputs}
    names = [step for step, inputs in made_from.items() if run.is_finished(step) and not run.is_done(step, inputs(run))]
    if run.is_finished("data") and run.is_finished("teacher"):
        profiled_devices = [device for device in devices(run) if run.is_finished(f"profile-{device.name}")]
        profiles = {device: _readable_profile(run, device) for device in profiled_devices}
        names += [
            f"profile of {device.name}"
            for device, profile in profiles.items()
            if profile is None or profile.device != device
        ]
        teachers_ms = {device.name: profile.teacher_p50_ms for device, profile in profiles.items() if profile}
        if run.is_finished("front") and not _is_front_current(run, teachers_ms):
            names.append("front")
    return names


def _readable_profile(run: Run, device: Device) -> Profile | None:
    """Return a device's profile; None if an older version of nas wrote it in a different format."""
    try:
        return Profile.load(run.profile(device.name))
    except DeviceError:
        return None


def _is_front_current(run: Run, teachers_ms: dict[str, float]) -> bool:
    """Whether `front.json` is based on the current profiles, and on all candidates of the current search."""
    stored_front = front(run)
    return (
        run.is_done("search", search_inputs(run))
        and has_ended(run, len(stored_front["candidates"]))
        and stored_front["teacher_p50_ms"] == teachers_ms
    )
