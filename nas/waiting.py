"""How idle OpenMP threads wait: they sleep in `nas` itself, but use the user's settings in latency measurements.

By default, an idle OpenMP thread spins for a while in case more work arrives. If another process is busy, the spinning
thread occupies a core that a working thread needs. This makes training on two cores several times slower. The OpenMP
library reads its settings only once, when it is loaded, so `nas` changes them before it imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables that control how idle threads wait: one each from the OpenMP standard, GNU and Intel.

If the user has set one of them, `nas` changes nothing.
"""
_CHOSEN_BY_NAS = "NAS_CHOSE_WAIT_POLICY"
"""An environment variable that is set if this module chose the wait policy. Child processes inherit the variable."""


def wait_passively() -> None:
    """Make idle OpenMP threads sleep unless the user has chosen a setting. Call this before importing torch."""
    if not any(name in os.environ for name in _WAIT_VARIABLES):
        os.environ.update({_WAIT_VARIABLES[0]: "PASSIVE", _CHOSEN_BY_NAS: "1"})


def as_served() -> Mapping[str, str]:
    """Return the environment variables without those that `wait_passively` has set."""
    chosen = (_CHOSEN_BY_NAS, _WAIT_VARIABLES[0]) if _CHOSEN_BY_NAS in os.environ else ()
    return {name: value for name, value in os.environ.items() if name not in chosen}
