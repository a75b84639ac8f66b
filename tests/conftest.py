"""What holds for all tests. Their fixtures are in shared_fixtures.py."""

from __future__ import annotations

import os
from collections import Counter

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, but not where tests are only handed out to other processes: PyTorch takes seconds."""
    if "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("shared_fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of each module that compares numbers by `tolerance`.

    Of several processes, each takes one file after the other. Those with many slow tests come first, so that no process
    is left with a long one when the others have finished.
    """
    for item in items:
        names = vars(item.module).values() if isinstance(item, pytest.Function) else ()
        if any(getattr(value, "__module__", None) == "tolerance" for value in names):
            item.add_marker(pytest.mark.numeric)
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])
