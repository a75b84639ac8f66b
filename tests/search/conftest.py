"""Fixtures of the search's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from searching import write_search


@pytest.fixture
def search_folder(tmp_path: Path) -> Path:
    return write_search(tmp_path)
