"""What holds for all tests. Their fixtures are in shared_fixtures.py."""

from __future__ import annotations

import os

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
# On a busy machine the parts of a Ray node take longer to start than Ray waits for them by default.
os.environ.update(RAY_raylet_start_wait_time_s="200", RAY_agent_register_timeout_ms="200000")

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, but not where tests are only handed out to other processes: PyTorch takes seconds."""
    if "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("shared_fixtures")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of modules that import `tolerance` as numeric, and divide all tests into groups for the processes.

    Each process takes one group after the other, in the order of the tests. A slow test is a group of its own, unless
    its module has a fixture that its tests share; the other tests of a file form a group. Slow tests come first, so
    that no process is left with them when the others have finished. The first is one that needs the finished study,
    and the others that need it come after those that do not; otherwise all processes would wait for it at once.
    """
    for item in items:
        names = vars(item.module).values() if isinstance(item, pytest.Function) else ()
        if any(getattr(value, "__module__", None) == "tolerance" for value in names):
            item.add_marker(pytest.mark.numeric)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    sharing = {item.path for item in items if _shares_a_fixture(item)}
    slow = {item.path for item in items if item.get_closest_marker("slow")} & sharing
    for item in items:
        by_itself = item.get_closest_marker("slow") and item.path not in sharing
        item.add_marker(pytest.mark.xdist_group(item.nodeid if by_itself else str(item.path)))

    def place(item: pytest.Item) -> tuple[bool, bool]:
        is_slow = item.path in slow if item.path in sharing else bool(item.get_closest_marker("slow"))
        return not is_slow, "_made_once" in getattr(item, "fixturenames", ())

    items.sort(key=place)
    first = next((item for item in items if "_made_once" in getattr(item, "fixturenames", ())), None)
    if first and place(first) == (False, True) and first.path not in sharing:
        items.remove(first)
        items.insert(0, first)


def _shares_a_fixture(item: pytest.Item) -> bool:
    """Whether a test uses a fixture that is made once for its module."""
    found = getattr(item, "_fixtureinfo", None)
    definitions = found.name2fixturedefs.values() if found else ()
    return any(each.scope == "module" for several in definitions for each in several)
