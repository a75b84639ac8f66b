"""Text classifiers of any family in transformers, for teachers that are not compressed themselves.

`AnyClassifier` uses only the Auto classes of transformers. It reads weights only from safetensors files, and never runs
code from the model folder. `nas.pipeline.separate_teacher` fine-tunes such a teacher and stores its logits, from which
the student learns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from nas.errors import TeacherError, first_line
from nas.tasks import Problem

_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""File patterns. A folder contains a tokenizer if at least one of its files matches one of these patterns."""
_LARGEST_REAL_LIMIT = 1_000_000
"""The largest `model_max_length` that is treated as a limit. For a tokenizer without a limit, transformers uses a far
larger number.
"""

_POSITIONS_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
"""The model types in which the first token of a text has the position `pad_token_id` + 1.

Their `max_position_embeddings` also counts the positions before this one, which are not used.
"""


@dataclass(frozen=True)
class AnyClassifier:
    """The configuration and the tokenizer of a text classifier in transformers. Only `load` reads the weights."""

    source: str
    """The folder that holds the model."""
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, source: str, weights: bool = True) -> AnyClassifier:
        """Read a model folder. Raises `TeacherError` if transformers cannot load a text classifier from it.

        If `weights` is false, the weight files may be missing.
        """
        folder = Path(source)
        if not (folder / "config.json").is_file():
            raise _teacher_error(source, "has no config.json; give the folder or hub id of a transformers model")
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        except Exception as problem:  # every configuration class raises exceptions of its own
            raise _teacher_error(
                source, f"its config.json cannot be read: {first_line(problem)}; repair the file"
            ) from None
        if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise _teacher_error(
                source,
                f"transformers has no sequence classifier for model_type {config.model_type!r}; give another model",
            )
        if weights and not any((folder / name).is_file() for name in _WEIGHT_FILES):
            raise _teacher_error(
                source,
                f"has no {_WEIGHT_FILES[0]}, and other formats are not read; load the model with transformers and save "
                "it with save_pretrained",
            )
        return cls(source, config, _loaded_tokenizer(source, config))

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the model's outputs, in the order of the outputs."""
        return tuple(str(name) for _, name in sorted((self.config.id2label or {}).items()))

    @property
    def has_types(self) -> bool:
        """Whether the model reads `token_type_ids`."""
        return "token_type_ids" in self.tokenizer.model_input_names

    def longest(self, wanted: int) -> int:
        """Return the number of tokens to which texts are truncated: `wanted`, but at most the model's own limit."""
        positions = getattr(self.config, "max_position_embeddings", None)
        if isinstance(positions, int) and positions > 0:  # XLNet has -1, and T5 has no such setting
            wanted = min(wanted, positions - self._unused_positions)
        own_limit = self.tokenizer.model_max_length
        return min(wanted, own_limit) if own_limit < _LARGEST_REAL_LIMIT else wanted

    @property
    def _unused_positions(self) -> int:
        """The number of rows at the start of the position table that are not used for any token of a text."""
        if self.config.model_type not in _POSITIONS_AFTER_PADDING:
            return 0
        token = self.config.pad_token_id
        return 1 + int(self.tokenizer.pad_token_id if token is None else token)

    def load(self, problem_type: Problem, outputs: Mapping[int, str] | None = None) -> PreTrainedModel:
        """Load the classifier in float32.

        `outputs` holds the output names of a new head, keyed by output index. If `outputs` is given, weights of the
        head are initialised at random if they are missing or do not have the new head's shape. Raises `TeacherError` if
        any other weight is missing or has the wrong shape.
        """
        config = self.config
        config.problem_type = problem_type
        if config.pad_token_id is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        if outputs is not None:
            config.id2label, config.label2id = dict(outputs), {name: number for number, name in outputs.items()}
        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                self.source,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=outputs is not None,
            )
        except Exception as problem:  # safetensors and transformers raise bare exceptions
            raise _teacher_error(
                self.source, f"its weights cannot be loaded: {first_line(problem)}; copy or download them again"
            ) from None
        self._check_loaded(model, loading, head_may_be_new=outputs is not None)
        return model

    def _check_loaded(self, model: PreTrainedModel, loading: Mapping[str, Any], head_may_be_new: bool) -> None:
        """Raise `TeacherError` if required weights were not loaded and were therefore initialised at random."""
        base = f"{model.base_model_prefix}."
        missing = sorted({*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])})
        if head_may_be_new:
            missing = [name for name in missing if name.startswith(base) and not name.startswith(f"{base}pooler.")]
        if missing:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            remedy = "give a complete checkpoint" if head_may_be_new else "give a classifier, or set teacher.fine_tune"
            raise _teacher_error(self.source, f"lacks weights that the model needs: {missing[0]}{more}; {remedy}")


def _loaded_tokenizer(source: str, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    # For a folder without a tokenizer, transformers silently creates an empty one.
    if not any(file for pattern in _TOKENIZER_FILES for file in Path(source).glob(pattern)):
        raise _teacher_error(source, "has no tokenizer; add its tokenizer.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, config=config, trust_remote_code=False)
    except Exception as problem:  # tokenizers raises bare exceptions, and tokenizer classes raise their own
        raise _teacher_error(
            source, f"its tokenizer cannot be loaded: {first_line(problem)}; repair its files"
        ) from None
    if tokenizer.pad_token_id is None:
        raise _teacher_error(source, 'its tokenizer has no padding token; add "pad_token" to tokenizer_config.json')
    return tokenizer


def _teacher_error(source: str, text: str) -> TeacherError:
    return TeacherError(f"teacher.model: {source}: {text}")
