"""Text encoders in the format of sentence-transformers: an encoder, followed by modules that are stored in subfolders.

`write_sentence_modules` writes these modules, such as the pooling, for an export and for the run's teacher. The
verification uses `SentenceEncoder`, which runs the encoder and the modules without sentence-transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput

from nas.files import write_atomically
from nas.form import NetworkForm
from nas.model.checkpoint import WEIGHTS_FILE
from nas.model.modeling import READOUTS
from nas.model.projection import BIAS, WEIGHT, read_projection
from nas.sentence_modules import DENSE_FOLDER, read_modules, write_modules


def write_sentence_modules(folder: Path, form: NetworkForm, hidden_size: int, projection: nn.Linear | None) -> None:
    """Write the modules that follow an encoder: pooling, then projection and normalisation if there are any.

    `folder` and `hidden_size` are those of the encoder. `projection` must be given if and only if
    `form.projection_dim` is set.
    """
    write_modules(folder, form, hidden_size)
    if projection is None:
        return
    last = {WEIGHT: projection.weight, BIAS: projection.bias}
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in last.items()}
    write_atomically(folder / DENSE_FOLDER / WEIGHTS_FILE, lambda draft: save_file(tensors, draft))


class SentenceEncoder(nn.Module):
    """An encoder of transformers, followed by the sentence-transformers modules in the encoder's folder."""

    def __init__(self, encoder: PreTrainedModel, folder: Path) -> None:
        super().__init__()
        self.encoder, self.form, self.config = encoder, read_modules(folder).form, encoder.config
        self.dense = read_projection(folder, encoder.config.hidden_size)

    def forward(self, attention_mask: torch.Tensor | None = None, **inputs: Any) -> SequenceClassifierOutput:
        """Return the embeddings of texts (batch, outputs) in the field `logits` of the output."""
        hidden = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        embeddings = READOUTS[self.form.readout](hidden, attention_mask)
        embeddings = embeddings if self.dense is None else self.dense(embeddings)
        if self.form.projection_act is not None:
            embeddings = ACT2FN[self.form.projection_act](embeddings)
        return SequenceClassifierOutput(
            logits=nn.functional.normalize(embeddings, dim=-1) if self.form.normalize else embeddings
        )

    def num_parameters(self) -> int:
        """Return the number of parameters. Models of transformers have a method of the same name."""
        return sum(parameter.numel() for parameter in self.parameters())
