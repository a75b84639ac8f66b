"""The weight-sharing supernet: slicing, importance ordering, and training by distillation."""

from __future__ import annotations

from nas.supernet.supernet import BertSupernet
from nas.supernet.weights import SupernetWeights

__all__ = ["BertSupernet", "SupernetWeights"]
