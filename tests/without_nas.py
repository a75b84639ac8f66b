"""Runs the scripts in `export/` in interpreters where `nas` cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PROGRAM = (
    "import runpy, sys; sys.modules['nas'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0], None, '__main__')"
)


def run(script: str, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> Any:
    """Run a script of `export/`, and return the JSON value on the last line that it prints."""
    path = Path(__file__).with_name("export") / f"{script}.py"
    command = [sys.executable, "-I", "-c", _PROGRAM, path, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
