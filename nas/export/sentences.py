"""Text encoders in the format of sentence-transformers: an encoder, followed by modules that are stored in subfolders.

`write_sentence_modules` writes these modules, such as the pooling, for an export. The verification uses
`SentenceEncoder`, which runs the encoder and the modules without sentence-transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from nas.files import write_atomically
from nas.model import CompactBert
from nas.model.modeling import READOUTS
from nas.model.stock import form_of
from nas.sentence_modules import DENSE_FOLDER, read_modules, write_modules

DENSE_FILE = "model.safetensors"
_WEIGHT, _BIAS = "linear.weight", "linear.bias"


def write_sentence_modules(model: CompactBert, folder: Path) -> None:
    """Write the modules that follow the encoder: pooling, then projection and normalisation if the network has them.

    `folder` is the folder of the encoder.
    """
    config = model.config
    write_modules(folder, form_of(config), config.hidden_size, config.projection_dim)
    if model.classifier is None:
        return
    last = {_WEIGHT: model.classifier.weight, _BIAS: model.classifier.bias}
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in last.items()}
    write_atomically(folder / DENSE_FOLDER / DENSE_FILE, lambda draft: save_file(tensors, draft))


class SentenceEncoder(nn.Module):
    """An encoder of transformers, followed by the sentence-transformers modules in the encoder's folder."""

    def __init__(self, encoder: PreTrainedModel, folder: Path) -> None:
        super().__init__()
        modules = read_modules(folder)
        self.encoder, self.form, self.config = encoder, modules.form, encoder.config
        self.dense: nn.Linear | None = None
        if modules.dense:
            state = load_file(modules.dense / DENSE_FILE)
            outputs, hidden_size = state[_WEIGHT].shape
            self.dense = nn.Linear(hidden_size, outputs)
            with torch.no_grad():
                self.dense.weight.copy_(state[_WEIGHT])
                self.dense.bias.copy_(state[_BIAS])

    def forward(self, attention_mask: torch.Tensor | None = None, **inputs: Any) -> SequenceClassifierOutput:
        """Return the embeddings of texts (batch, outputs) in the field `logits` of the output."""
        hidden = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        embeddings = READOUTS[self.form.readout](hidden, attention_mask)
        embeddings = embeddings if self.dense is None else self.dense(embeddings)
        return SequenceClassifierOutput(
            logits=nn.functional.normalize(embeddings, dim=-1) if self.form.normalize else embeddings
        )

    def num_parameters(self) -> int:
        """Return the number of parameters. Models of transformers have a method of the same name."""
        return sum(parameter.numel() for parameter in self.parameters())
