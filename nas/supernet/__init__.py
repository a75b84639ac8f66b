"""The weight-sharing supernet: slicing, importance ordering, and training by distillation."""

from __future__ import annotations

from nas.supernet.narrow import SupernetWeights
from nas.supernet.supernet import BertSupernet

__all__ = ["BertSupernet", "SupernetWeights"]
