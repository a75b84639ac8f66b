"""The weight-sharing supernet: slicing, ordering by importance, and training by distillation.

`SupernetWeights` holds the shared weights, and `BertSupernet` runs sub-networks on them and extracts sub-networks. The
pipeline trains the weights with `training.py`. The search then evaluates sub-networks, and the export extracts the best
ones.
"""

from __future__ import annotations

from nas.supernet.supernet import BertSupernet
from nas.supernet.weights import SupernetWeights

__all__ = ["BertSupernet", "SupernetWeights"]
