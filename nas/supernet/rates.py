"""The default peak learning rate of the final training, which decreases with the size of the network.

A rate that suits small networks is so high for large ones that they lose what they inherited. With a rate that suits
large networks, small ones learn too little. If `Schedule.learning_rate` is None, `DistillationTrainer` therefore uses a
separate rate for each network.
"""

from __future__ import annotations

from nas.model import CompactBert

HIGHEST_RATE = 5e-4
"""The learning rate of small networks."""
_SMALL = 5e6
"""The number of parameters up to which a network is small. Only the parameters of its layers are counted."""
_EXPONENT = 0.75
"""The learning rate of larger networks is proportional to the number of parameters raised to minus this exponent."""


def default_learning_rate(network: CompactBert) -> float:
    """Return the default peak learning rate for the distillation of a network."""
    return rate_for(sum(parameter.numel() for parameter in network.bert.encoder.parameters()))


def rate_for(parameters: int) -> float:
    """Return the default peak learning rate for a network whose layers have this many parameters.

    For example, the rate is 6e-5 for the layers of BERT-base, which have 85 million parameters.
    """
    return HIGHEST_RATE * min(1.0, (_SMALL / max(parameters, 1)) ** _EXPONENT)
