"""How OpenMP's idle threads wait: asleep in this program, as the user's environment says in latency measurements.

By default an idle thread of OpenMP spins for a while in case more work comes. Beside another busy process a spinning
thread occupies the core that the thread with work needs, and a training on two cores becomes several times slower.
The OpenMP library reads its settings once, when it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user decides for themselves: OpenMP's own, GNU's and Intel's."""
_OURS = "NAS_CHOSE_WAIT_POLICY"
"""Marks a policy that this module chose, also in child processes."""


def wait_passively() -> None:
    """Let idle OpenMP threads sleep, unless the environment has a setting. Call before torch is imported."""
    if not any(name in os.environ for name in _SETTINGS):
        os.environ.update({_SETTINGS[0]: "PASSIVE", _OURS: "1"})


def as_served() -> Mapping[str, str]:
    """The environment without the policy that `wait_passively` chose: how a user's own program would run."""
    chosen = (_OURS, _SETTINGS[0]) if _OURS in os.environ else ()
    return {name: value for name, value in os.environ.items() if name not in chosen}
