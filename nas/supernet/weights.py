"""The weights of a supernet: those of its largest sub-network, and parameters that only other sub-networks use.

Some compression methods replace a weight with other matrices, such as the two factors of `low_rank`. The supernet
stores these matrices in addition to the weight, in the largest size that any sub-network needs. For each smaller hidden
size, it also stores the parameters in `narrow.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from nas.architecture import Architecture
from nas.compression import MatrixCompression, compression
from nas.model import CompactBert, CompactBertConfig
from nas.model.axes import Axis, along
from nas.model.layers import BlockEmbedding, BlockLinear, Compressed, add_matrices
from nas.space import CompressionMethods
from nas.supernet.moments import Moments, recorded_moments
from nas.supernet.narrow import Narrow, norms_of, readers_of


class SupernetConfig(CompactBertConfig):
    """The configuration of a supernet: that of its largest sub-network, and three settings for the other sub-networks.

    `narrow_sizes` lists the smaller hidden sizes. `choices` lists the compression methods, keyed by block. `exits` says
    whether sub-networks may have early exits.
    """

    model_type = "compact_bert_supernet"

    narrow_sizes: list[int] | None = None
    choices: dict[str, list[str]] | None = None
    exits: bool = False

    def with_architecture(self, architecture: Architecture) -> CompactBertConfig:
        """Return the configuration of a sub-network, without the settings that only a supernet has."""
        values = self.to_dict()
        for setting in ("narrow_sizes", "choices", "exits"):
            values.pop(setting)
        return CompactBertConfig(**values).with_architecture(architecture)


class SupernetWeights(CompactBert):
    """The weights of a supernet: the largest sub-network, and parameters that only other sub-networks use.

    These parameters are matrices for compression methods, the classifiers of early exits, and the modules
    `narrow.<hidden_size>` for smaller hidden sizes.
    """

    config: SupernetConfig
    config_class = SupernetConfig

    def __init__(self, config: SupernetConfig) -> None:
        super().__init__(config)
        for _, module, choices in self._modules_with_methods():
            shapes: dict[str, tuple[int, int]] = {}
            for choice in choices:
                for name, shape in choice.matrices(module.rows, module.columns).items():
                    so_far = shapes.get(name, (0, 0))
                    shapes[name] = max(so_far[0], shape[0]), max(so_far[1], shape[1])
            add_matrices(module, {name: shape for name, shape in shapes.items() if not hasattr(module, name)})
        for layer in self.layers[:-1] if config.exits else ():
            layer.exit = along(nn.Linear(config.hidden_size, config.outputs), None, Axis.HIDDEN)
        self.narrow = nn.ModuleDict({str(size): Narrow(self, size) for size in config.narrow_sizes or []})

    @classmethod
    def of(
        cls,
        largest: CompactBert,
        hidden_sizes: Iterable[int],
        choices: CompressionMethods | None = None,
        exits: bool = False,
    ) -> SupernetWeights:
        """Return the weights of a supernet whose largest sub-network is `largest`.

        Call `fit` afterwards to initialise the parameters for smaller hidden sizes and for compression methods.
        """
        narrow = [size for size in hidden_sizes if size != largest.config.hidden_size]
        values: dict[str, Any] = largest.config.to_dict()
        values.pop("num_hidden_layers")
        offered = (choices or CompressionMethods()).model_dump(mode="json")
        weights = cls(SupernetConfig(**values, narrow_sizes=narrow, choices=offered, exits=exits))
        weights.load_state_dict(largest.state_dict(), strict=False)
        return weights.eval()

    @classmethod
    def with_state(cls, config: dict[str, Any], state: Mapping[str, torch.Tensor]) -> SupernetWeights:
        """Return weights that use the tensors in `state` without copying them. They are in evaluation mode."""
        with torch.device("meta"):
            weights = cls(SupernetConfig.from_dict(config))
        weights.load_state_dict(state, assign=True)
        return weights.eval()

    @torch.no_grad()
    def fit(self, batches: Iterable[dict[str, torch.Tensor]]) -> None:
        """Initialise the parameters for smaller hidden sizes and the matrices for compression methods.

        They are computed from the weights of the largest sub-network and from its activations on `batches`. Each batch
        holds arguments of `forward`.
        """
        read = {name: Moments() for name in readers_of(self).values()} if len(self.narrow) else {}
        written = {name: Moments() for name, _, _ in self._modules_with_methods()}
        with recorded_moments(self, read, written) as set_mask:
            for batch in batches:
                set_mask(batch["attention_mask"].bool())
                states = self(**batch, output_hidden_states=True).hidden_states
                for layer, state in zip(self.layers[:-1], states[1:-1], strict=True):
                    if self.config.exits:
                        layer.exit(state[:, 0])  # run only to record its input
        for narrow in self.narrow.values():
            cast(Narrow, narrow).fit(norms_of(self), read)
        for name, module, choices in self._modules_with_methods():
            moment = written[name].second
            if isinstance(module, BlockLinear) and module.bias is not None:
                moment = written[name].second_around(-module.bias)
            for choice in choices:
                initial_values = choice.start_table if isinstance(module, BlockEmbedding) else choice.start_linear
                for matrix, value in initial_values(module.weight, moment).items():
                    parameter = module.get_parameter(matrix)
                    parameter[: value.shape[0], : value.shape[1]] = value

    def _modules_with_methods(self) -> Iterator[tuple[str, Compressed, Sequence[MatrixCompression]]]:
        """Yield each module that needs matrices other than `weight`, as a triple (name, module, compression methods).

        Only the methods that use such matrices are yielded. They are sorted by the size of these matrices, smallest
        first.
        """
        offered: Mapping[str, list[str]] = self.config.choices or {}
        for name, module in self.named_modules():
            if isinstance(module, Compressed):
                methods = (compression(spec) for spec in offered.get(module.block, ()))
                extra = [
                    choice
                    for choice in methods
                    if isinstance(choice, MatrixCompression) and choice.matrices(1, 1).keys() - {"weight"}
                ]
                if extra:
                    yield name, module, sorted(extra, key=lambda choice: sum(map(sum, choice.matrices(1, 1).values())))
