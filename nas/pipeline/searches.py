"""The steps between training and export: profiles of the devices, the search, the measured front."""

from __future__ import annotations

from typing import Any

from nas.data import TaskData
from nas.errors import SearchError
from nas.evaluate import EvaluationRecipe
from nas.files import digest, file_digest, read_json, write_json
from nas.latency import Profile, build_profile
from nas.latency.profile import profile_inputs
from nas.latency.runtimes import runtime_of
from nas.latency.worker import environment
from nas.pipeline.prepare import prepare_teacher
from nas.pipeline.run import Run
from nas.pipeline.supernets import load_supernet, load_teacher, supernet_inputs, teacher_config, train
from nas.search import SearchState, search
from nas.search.costs import Costs
from nas.search.executors import executor_for
from nas.search.sampler import Trials
from nas.search.selection import measure_front
from nas.study import Device


def search_inputs(run: Run) -> str:
    """What the results of a search depend on; how many there are and who proposes them may change."""
    study, config = run.study, teacher_config(run)
    profiles = [profile_inputs(device, study.space, config) for device in devices(run)]
    return digest([supernet_inputs(run), profiles, study.digest("budgets"), study.search.examples])


def devices(run: Run) -> tuple[Device, ...]:
    """The study's devices, with the lengths of the prepared data where they have the task's own."""
    if all(device.sequence_length != "task" for device in run.study.devices):
        return run.study.devices
    lengths = TaskData.load(run.data).search["length"]
    return tuple(device.with_lengths_of(lengths) for device in run.study.devices)


def fingerprint(device: Device) -> str:
    """What identifies this machine and runtime. Raises `DeviceError` if the runtime is not installed."""
    runtime_of(device.runtime)
    found: str = environment(device.runtime)["fingerprint"]
    return found


def device_inputs(run: Run) -> dict[Device, str]:
    """What the profile of each device is made from, this machine included."""
    config = teacher_config(run)
    return {
        device: digest([profile_inputs(device, run.study.space, config), fingerprint(device)])
        for device in devices(run)
    }


def profile(run: Run) -> dict[str, Profile]:
    """The profiles of the study's devices, measured where they are missing or from another machine."""
    prepare_teacher(run)
    profiles = {}
    for device, inputs in device_inputs(run).items():
        path, step = run.profile(device.name), f"profile-{device.name}"
        if not run.is_done(step, inputs):
            with run.step(step, inputs, path):
                build_profile(device, run.study.space, teacher_config(run), run.study.seed).save(path)
        profiles[device.name] = Profile.load(path)
    return profiles


def recipe(run: Run) -> EvaluationRecipe:
    """How to evaluate candidates of this run."""
    return EvaluationRecipe(run.supernet, run.data, run.study.task.metric, run.study.search.examples)


def search_candidates(run: Run) -> SearchState:
    """Search the space, then measure the best of each budget whole. Goes on where a killed search stopped."""
    study = run.study
    profiles = profile(run)
    costs = Costs(teacher_config(run), profiles, study.budgets)
    costs.check_feasible(study.space)
    train(run)
    inputs = search_inputs(run)

    def trials() -> Trials:
        return Trials(run.journal, inputs, study.space, costs, study.search, study.seed)

    state = SearchState.of(trials()) if run.is_done("search", inputs) else None
    if state is None or len(state.results) < study.search.evaluations:
        with run.step("search", inputs, run.journal.parent):
            state = search(trials(), study.search.evaluations, lambda: executor_for(study.search, recipe(run)))
    measured_on = [file_digest(run.profile(device.name)) for device in study.devices]
    front_inputs = digest([[result.to_json() for result in state.results], study.export.candidates, measured_on])
    if not run.is_done("front", front_inputs):
        with run.step("front", front_inputs, run.front):
            extract = load_supernet(run).extract
            found = measure_front(extract, study.space.largest(), state, costs, study)
            teacher_accuracy = recipe(run).load().accuracy_of(load_teacher(run))
            write_json(run.front, found | {"teacher_search_accuracy": teacher_accuracy})
    return state


def front(run: Run) -> dict[str, Any]:
    """The measured Pareto front of a finished search."""
    found: dict[str, Any] = read_json(run.front, SearchError)
    return found
