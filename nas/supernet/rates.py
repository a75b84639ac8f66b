"""The default learning rate of the final training, which decreases with the size of the network.

A rate at which narrow networks learn fast destroys wide ones: with one rate for all, either the former learn too little
or the latter lose what they inherited. `DistillationTrainer` uses a rate for each network if its `Schedule` has none.
"""

from __future__ import annotations

from nas.model import CompactBert

HIGHEST_RATE = 5e-4
"""The learning rate of small networks."""
_SMALL = 5e6
"""The number of parameters up to which a network is small. Token embeddings, readout and head are not counted."""
_EXPONENT = 0.75
"""The learning rate of larger networks is proportional to the number of parameters raised to minus this exponent."""


def default_learning_rate(network: CompactBert) -> float:
    """Return the highest learning rate at which a network is distilled by default."""
    return rate_for(sum(parameter.numel() for parameter in network.bert.encoder.parameters()))


def rate_for(parameters: int) -> float:
    """Return the default learning rate for a network whose layers have this many parameters.

    For example, it is 6e-5 for the layers of BERT-base, which have 85 million parameters.
    """
    return HIGHEST_RATE * min(1.0, (_SMALL / max(parameters, 1)) ** _EXPONENT)
