"""The supernet: a single set of weights that all sub-networks share.

The weights are those of the largest sub-network, with the most important units first. Each sub-network uses the leading
part of each weight tensor. Sub-networks with a smaller hidden size also have additional parameters (`narrow.py`). A
sub-network is a smaller `CompactBert` whose parameters are views of these weights. The extracted network is therefore
exactly the network that was trained and evaluated. No units are masked, so a smaller sub-network is faster.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch.func import functional_call

from nas.architecture import Architecture
from nas.compression import matrix_compression
from nas.model import CompactBert, CompactBertConfig
from nas.model.layers import BlockLinear
from nas.model.modeling import CompactBertOutput
from nas.supernet.narrow import readers_of
from nas.supernet.weights import SupernetWeights

# PyTorch warns that gradients with the layout of a slice slow DistributedDataParallel, but that is inactive here.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")

_LAYER_PREFIX = "bert.encoder.layer."
_MAX_CACHED_SKELETONS = 256
_NO_COMPRESSION = matrix_compression("none")


def _view_of_part(parameter: torch.Tensor, leading: Sequence[int], *rest: slice) -> torch.Tensor:
    """Return a view of a part of a parameter. Its gradient is a view of the same part of the parameter's `grad`.

    `leading` holds the sizes of the part in the first dimensions, and `rest` its slices in all later dimensions. If the
    part were an ordinary slice, the backward pass of every sub-network would write a gradient for the entire parameter,
    mostly zeros.
    """
    part = (*(slice(size) for size in leading), *rest)
    view = parameter.detach()[part]
    if parameter.requires_grad and torch.is_grad_enabled():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        view.requires_grad_()
        view.grad = parameter.grad[part]
    return view


def _skeleton(
    config: CompactBertConfig, architecture: Architecture, attn_implementation: str | None = None
) -> CompactBert:
    """Return a sub-network on the meta device, so that its parameters have no storage. It is in evaluation mode."""
    own_config = config.with_architecture(architecture)
    own_config._attn_implementation = attn_implementation
    with torch.device("meta"):
        return CompactBert(own_config).eval()


class BertSupernet:
    """A supernet, which runs and extracts sub-networks of `weights`.

    `weights` is the largest sub-network and an ordinary Hugging Face model. To train or save the supernet, train or
    save this model. An extracted sub-network can also be used as `weights`. The only sub-network is then the network
    itself. `attn_implementation` selects the computation of attention in `run`, as in transformers.
    """

    def __init__(self, weights: CompactBert, attn_implementation: str | None = None) -> None:
        self.weights = weights
        sources = (layer.source for layer in weights.config.architecture.layers)
        self._layer_of_source = {source: number for number, source in enumerate(sources)}
        self.skeleton = lru_cache(_MAX_CACHED_SKELETONS)(
            partial(_skeleton, weights.config, attn_implementation=attn_implementation)
        )
        """`_skeleton` for the sub-networks of this supernet. Results are cached."""

    def slices(self, architecture: Architecture) -> dict[str, torch.Tensor]:
        """Return the parameters of a sub-network, keyed by name. Most of them are views of the supernet's weights.

        If the sub-network has a smaller hidden size than the supernet, the projections that predict missing units
        (`narrow.py`) are multiplied into the weights that read hidden units. A backward pass adds to the `grad` tensors
        that the supernet's parameters have when `slices` is called. Set gradients to zero before that call, not between
        the forward and the backward pass.
        """
        shared = dict(self.weights.named_parameters())
        narrow_prefix, skeleton = f"narrow.{architecture.hidden_size}", self.skeleton(architecture)
        state: dict[str, torch.Tensor] = {}
        for name, parameter in skeleton.named_parameters():
            source = self._supernet_name(name, architecture)
            own_norm = shared.get(f"{narrow_prefix}.norms.{source}")
            state[name] = _view_of_part(shared[source], parameter.shape) if own_norm is None else own_norm
        is_narrow = architecture.hidden_size < self.weights.config.hidden_size
        for module, reader in readers_of(skeleton).items() if is_narrow else ():
            source = self._supernet_name(module, architecture)
            missing = f"{narrow_prefix}.missing.{self._supernet_name(reader, architecture)}"
            if f"{missing}.weight" in shared:
                part = skeleton.get_submodule(module)
                choice = part.compression if isinstance(part, BlockLinear) else _NO_COMPRESSION
                read_name = f"{module}.{choice.reads}"
                unread = _view_of_part(
                    shared[f"{source}.{choice.reads}"],
                    state[read_name].shape[:1],
                    slice(architecture.hidden_size, None),
                )
                matrices = {name: state[f"{module}.{name}"] for name in choice.matrices(0, 0)} | {choice.reads: unread}
                if f"{missing}.bias" in shared:
                    compensation = choice.plain.linear(shared[f"{missing}.bias"][None, None], matrices, None)
                    state[f"{module}.bias"] = state[f"{module}.bias"] + compensation[0, 0]
                state[read_name] = state[read_name] + unread @ shared[f"{missing}.weight"]
        return state

    def run(
        self,
        architecture: Architecture,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        every_token: bool = False,
    ) -> CompactBertOutput:
        """Run a sub-network without dropout, and return its output.

        A backward pass from this output adds gradients to the supernet's weights.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "output_hidden_states": output_hidden_states,
            "every_token": every_token,
            "details": True,
        }
        return functional_call(self.skeleton(architecture), self.slices(architecture), (), inputs)

    def extract(self, architecture: Architecture, copied: bool = True) -> CompactBert:
        """Return a sub-network as a model in evaluation mode.

        If `copied` is true, its weights are copies of the supernet's weights. Otherwise, they are views where possible.
        """
        model = _skeleton(self.weights.config, architecture)
        with torch.no_grad():
            state = {name: view.clone() if copied else view for name, view in self.slices(architecture).items()}
        model.load_state_dict(state, assign=True)
        return model

    @classmethod
    def load(cls, folder: Path) -> BertSupernet:
        """Return a supernet, in evaluation mode, with the weights that were saved in `folder`."""
        return cls(SupernetWeights.from_pretrained(folder).eval())

    def _supernet_name(self, name: str, architecture: Architecture) -> str:
        """Return the name that a parameter or module of a sub-network has in the supernet.

        A layer of the sub-network corresponds to the supernet's layer with the same `source`, the index in the teacher.
        """
        if not name.startswith(_LAYER_PREFIX):
            return name
        number, rest = name.removeprefix(_LAYER_PREFIX).split(".", 1)
        return f"{_LAYER_PREFIX}{self._layer_of_source[architecture.layers[int(number)].source]}.{rest}"
