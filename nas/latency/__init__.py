"""Latency of sub-networks on a device: isolated measurement, block profiles, prediction."""

from __future__ import annotations

from nas.latency.measure import measure
from nas.latency.profile import Profile
from nas.latency.profiling import Recipe, build_profile
from nas.latency.record import LatencyRecord

__all__ = ["LatencyRecord", "Profile", "Recipe", "build_profile", "measure"]
