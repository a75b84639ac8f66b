"""The weight-sharing supernet: its weights, its sub-networks, and its training by distillation.

`SupernetWeights` holds the shared weights. `BertSupernet` runs and extracts sub-networks that use these weights. The
pipeline first trains the weights (`training.py`). The search then evaluates sub-networks, and the export extracts the
best ones.
"""

from __future__ import annotations

from nas.supernet.supernet import BertSupernet
from nas.supernet.weights import SupernetWeights

__all__ = ["BertSupernet", "SupernetWeights"]
