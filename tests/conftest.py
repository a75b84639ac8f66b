"""Settings for all tests, and how parallel processes share the tests. The fixtures are in shared_fixtures.py."""

from __future__ import annotations

import inspect
import os
from types import CodeType, FunctionType

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
# On a busy machine, the processes of a Ray node take longer to start than Ray's default timeouts allow.
os.environ.update(RAY_raylet_start_wait_time_s="200", RAY_agent_register_timeout_ms="200000")

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, except in a process that only distributes tests to others: importing PyTorch takes seconds."""
    if "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("shared_fixtures")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use `tolerance` as numeric, and divide all tests into groups for pytest-xdist.

    The processes take the groups in the order of the tests. Each slow test is a separate group, unless tests of its
    file share a module fixture; all other tests of a file form one group. Groups with slow tests come first, so that no
    process is still busy with them when the others have finished. The very first test needs the finished study. All
    other slow tests that need it come after those that do not, because otherwise all processes would wait until that
    study is finished.
    """
    for item in items:
        if isinstance(item, pytest.Function) and _uses_tolerances(item.function, set()):
            item.add_marker(pytest.mark.numeric)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    sharing = {item.path for item in items if _shares_a_fixture(item)}
    slow = {item.path for item in items if item.get_closest_marker("slow")} & sharing
    for item in items:
        is_separate = item.get_closest_marker("slow") and item.path not in sharing
        item.add_marker(pytest.mark.xdist_group(item.nodeid if is_separate else str(item.path)))

    def rank(item: pytest.Item) -> tuple[bool, bool]:
        is_slow = item.path in slow if item.path in sharing else bool(item.get_closest_marker("slow"))
        return not is_slow, "_shared_finished_run" in getattr(item, "fixturenames", ())

    items.sort(key=rank)
    first = next((item for item in items if "_shared_finished_run" in getattr(item, "fixturenames", ())), None)
    if first and rank(first) == (False, True) and first.path not in sharing:
        items.remove(first)
        items.insert(0, first)


def _uses_tolerances(function: FunctionType, seen: set[FunctionType]) -> bool:
    """Whether a function uses a name of `tolerance`, itself or in a function of its module."""
    function = inspect.unwrap(function)
    seen.add(function)
    codes = [function.__code__]
    for code in codes:  # the list grows by the nested functions
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    used = [function.__globals__.get(name) for code in codes for name in code.co_names]
    if any(getattr(value, "__module__", None) == "tolerance" for value in used):
        return True
    called = (inspect.unwrap(value) for value in used if isinstance(value, FunctionType))
    return any(
        _uses_tolerances(each, seen) for each in called if each not in seen and each.__globals__ is function.__globals__
    )


def _shares_a_fixture(item: pytest.Item) -> bool:
    """Whether a test uses a fixture with module scope."""
    fixtures = getattr(item, "_fixtureinfo", None)
    definitions = fixtures.name2fixturedefs.values() if fixtures else ()
    return any(each.scope == "module" for several in definitions for each in several)
