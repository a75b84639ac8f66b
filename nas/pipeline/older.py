"""Which results of a run were made from other settings or files, or by an older `nas`: they are shown, and marked."""

from __future__ import annotations

from nas.device import Device
from nas.errors import DeviceError, NasError
from nas.latency.profile import Profile
from nas.pipeline.prepare import teacher_inputs
from nas.pipeline.profiles import devices
from nas.pipeline.run import Run
from nas.pipeline.searches import front, has_ended, search_inputs
from nas.pipeline.supernets import supernet_inputs


def older(run: Run) -> str:
    """One line on what was made from other settings or files than the study's, and what makes it anew; else empty.

    The machine does not count, as a run may be looked at on another one; nor does a storage have to be reached.
    """
    try:
        found = _older_steps(run)
    except NasError:  # what they would be compared with is not there, which the next step will say
        return ""
    if not found:
        return ""
    return f"Made for an older form of this study or by an older nas: {', '.join(found)}; nas run rebuilds it"


def _older_steps(run: Run) -> list[str]:
    """The steps that ended and would be done again."""
    made_from = {"teacher": teacher_inputs, "supernet": supernet_inputs}
    found = [step for step, inputs in made_from.items() if run.is_finished(step) and not run.is_done(step, inputs(run))]
    if run.is_finished("data") and run.is_finished("teacher"):
        known = [device for device in devices(run) if run.is_finished(f"profile-{device.name}")]
        profiles = {device: _profile(run, device) for device in known}
        found += [
            f"profile of {device.name}"
            for device, profile in profiles.items()
            if profile is None or profile.device != device
        ]
        teachers_ms = {device.name: profile.teacher_p50_ms for device, profile in profiles.items() if profile}
        if run.is_finished("front") and not _is_front_current(run, teachers_ms):
            found.append("front")
    return found


def _profile(run: Run, device: Device) -> Profile | None:
    """A device's profile, or nothing where it is one of an older version."""
    try:
        return Profile.load(run.profile(device.name))
    except DeviceError:
        return None


def _is_front_current(run: Run, teachers_ms: dict[str, float]) -> bool:
    """Whether the front is of this search, of as many candidates as are asked for, and of these profiles."""
    known = front(run)
    return (
        run.is_done("search", search_inputs(run))
        and has_ended(run, len(known["candidates"]))
        and known["teacher_p50_ms"] == teachers_ms
    )
