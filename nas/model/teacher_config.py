"""Read and check a teacher's configuration. Only the settings that define the network are kept.

Published configuration files can contain numbers written as strings, settings of other tools, and options for a single
call of the model. `read_config` rebuilds the configuration from the settings that define the network, so that no other
setting can change what the network computes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from nas.errors import TeacherError, listed
from nas.model.families import FAMILIES, Family, family_names, family_of
from nas.sentence_modules import MODULES_FILE
from nas.tasks import Problem

SUPPORTED = f"a {family_names()}"
CONFIG_FILE = "config.json"
_SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"


class _Rule(NamedTuple):
    """The rule that the value of a setting must satisfy."""

    words: str
    """The rule as a phrase for messages."""
    holds: Callable[[float], bool]
    is_whole: bool = False
    """Whether the value must be a whole number."""
    is_nullable: bool = False
    """Whether the value may be null."""


_COUNT = _Rule("a whole number above 0", lambda number: number > 0.0, is_whole=True)
_POSITIVE = _Rule("a number above 0", lambda number: number > 0.0)
_RATE = _Rule("a number of at least 0 and below 1", lambda number: 0.0 <= number < 1.0)
_RULES = {
    "vocab_size": _COUNT,
    "num_hidden_layers": _COUNT,
    "hidden_size": _COUNT,
    "num_attention_heads": _COUNT,
    "intermediate_size": _COUNT,
    "max_position_embeddings": _COUNT,
    "type_vocab_size": _COUNT,
    "embedding_size": _COUNT,
    "hidden_dropout_prob": _RATE,
    "attention_probs_dropout_prob": _RATE,
    "classifier_dropout": _RATE._replace(is_nullable=True),
    "layer_norm_eps": _POSITIVE,
    "initializer_range": _Rule("a number of at least 0", lambda number: number >= 0.0),
    "pad_token_id": _Rule(
        "a whole number of at least 0, or null", lambda number: number >= 0.0, is_whole=True, is_nullable=True
    ),
}
"""The rules for the values of numeric settings, keyed by the setting's name in `CompactBertConfig`."""
_UNSUPPORTED_SETTINGS = {
    "is_decoder": "give an encoder",
    "add_cross_attention": "give an encoder",
    "pruned_heads": "give a checkpoint with all heads",
    "quantization_config": "give the checkpoint before quantisation, or remove the setting if no weight is quantised",
}
"""Settings that would change what the network computes or how its weights are stored. Each value is the remedy that
error messages suggest.
"""


def teacher_file(source: str, name: str) -> Path | None:
    """Return the path of a file in a teacher's folder, or None if there is no file of that name."""
    path = Path(source) / name
    return path if path.is_file() else None


def read_config(source: str) -> PreTrainedConfig:
    """Return the configuration in a teacher's folder, as an object of the family's configuration class in transformers.

    Raises `TeacherError` if the file cannot be read, the family is not supported, or a value is not valid.
    """
    values = _read(source)
    kind = values.get("model_type")
    if not isinstance(kind, str):
        families = listed(f'"{name}"' for name in FAMILIES)
        raise _setting_error(source, "model_type", f"must be {families}", kind, "set it")
    family, config_class = family_of(kind), CONFIG_MAPPING[kind]
    for alias, name in config_class.attribute_map.items():
        if alias in values:
            values.setdefault(name, values[alias])
    for name, remedy in _UNSUPPORTED_SETTINGS.items():
        if values.get(name):
            raise _setting_error(source, name, "must be absent or false", values[name], remedy)
    settings = dict(_settings(source, family, config_class, values))
    settings |= {name: values[name] for name in family.own_settings if name in values}
    try:
        config = AutoConfig.for_model(kind, **settings, **_labels(source, values))
    except (KeyError, TypeError, ValueError, StrictDataclassError) as problem:
        reason = " ".join(str(problem).split())
        raise TeacherError(f"teacher.model: {source}: {CONFIG_FILE}: {reason}; correct the file") from None
    architectures = values.get("architectures")
    config.architectures = architectures if isinstance(architectures, list) else None
    config.problem_type = _problem_type(source, values)
    if config.pad_token_id is not None and config.pad_token_id >= config.vocab_size:
        raise _setting_error(
            source, "pad_token_id", f"must be below vocab_size, {config.vocab_size}", config.pad_token_id
        )
    return config


def teacher_settings(source: str) -> dict[str, Any]:
    """Return all settings in a teacher's `config.json` and, if it exists, `config_sentence_transformers.json`."""
    path = teacher_file(source, _SENTENCE_TRANSFORMERS)
    further = _read_json(source, path) if path else {}
    return _read(source) | (further if isinstance(further, dict) else {})


def _is_model(path: Path) -> bool:
    """Whether a `config.json` names the family of a model."""
    try:
        return "model_type" in json.loads(path.read_bytes())
    except ValueError:
        return False


def _read(source: str) -> dict[str, Any]:
    path = teacher_file(source, CONFIG_FILE)
    if path is None:
        remedies = []
        if teacher_file(source, "adapter_config.json"):
            remedies.append("merge the adapter into its model (merge_and_unload of peft), and give the result")
        nested = next((path.parent for path in sorted(Path(source).glob(f"*/{CONFIG_FILE}")) if _is_model(path)), None)
        if nested and teacher_file(source, MODULES_FILE):
            remedies.append(
                f"move the files of the subfolder {nested.name} into this folder, and correct {MODULES_FILE}"
            )
        elif nested:
            remedies.append(f"give the subfolder {nested.name}")
        remedies.append(f"give the folder or hub id of {SUPPORTED}")
        raise TeacherError(f"teacher.model: {source}: the model has no {CONFIG_FILE}; {', or '.join(remedies)}")
    values = _read_json(source, path)
    if not isinstance(values, dict):
        raise TeacherError(
            f"teacher.model: {source}: {CONFIG_FILE} must hold a JSON object, but holds "
            f"{type(values).__name__}; give the folder or hub id of {SUPPORTED}"
        )
    return values


def _read_json(source: str, path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as problem:  # not JSON, or not text
        raise TeacherError(
            f"teacher.model: {source}: {path.name} is not valid JSON: {problem}; repair the file"
        ) from None


def _settings(source: str, family: Family, config_class: Any, values: Mapping[str, Any]) -> Any:
    """Yield the name and the value of each setting that defines the network.

    The names are those that the family uses in transformers. Settings that the file lacks are not yielded, so that they
    keep their defaults.
    """
    defaults = config_class()
    names = {setting: family.name(setting) for setting in _RULES if setting not in family.constants}
    rules = {name: _RULES[setting] for setting, name in names.items() if hasattr(defaults, name)}
    rules |= dict.fromkeys(family.own_counts, _COUNT) | dict.fromkeys(family.own_numbers, _POSITIVE)
    for name, rule in rules.items():
        if name not in values:
            continue
        if values[name] is None and rule.is_nullable:
            yield name, None
            continue
        number = _number(values[name])
        if number is None or not rule.holds(number) or (rule.is_whole and not number.is_integer()):
            raise _setting_error(source, name, f"must be {rule.words}", values[name])
        yield name, int(number) if rule.is_whole else number
    for name in (family.name("hidden_act"), "position_embedding_type"):
        # Older versions of transformers wrote null for absolute positions.
        if name in values and (values[name] is not None or name != "position_embedding_type"):
            yield name, str(values[name])


def _number(value: Any) -> float | None:
    """Return a value as a float if it is a finite number or a string that represents one. Otherwise, return None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _labels(source: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries `id2label` and `label2id`.

    If the file has no `id2label`, both entries are derived from `label2id` or, if that is also missing, from
    `num_labels`. As in transformers, a configuration without any of these three settings has two labels. Raises
    `TeacherError` if the labels are not numbered from 0, or if two of them have the same name.
    """
    id2label, label2id = values.get("id2label"), values.get("label2id")
    if not id2label and isinstance(label2id, Mapping) and label2id:
        id2label = {number: name for name, number in label2id.items()}
    if isinstance(id2label, list):
        id2label = dict(enumerate(id2label))
    if not id2label:
        count = _number(values.get("num_labels", 2))
        if count is None or not count.is_integer() or count < 1:
            raise _setting_error(source, "num_labels", "must be a whole number above 0", values.get("num_labels"))
        id2label = {number: f"LABEL_{number}" for number in range(int(count))}
    numbers = [_number(key) for key in id2label] if isinstance(id2label, Mapping) else []
    if not numbers or sorted(numbers, key=lambda number: number or 0.0) != list(range(len(numbers))):
        raise _setting_error(source, "id2label", "must name the labels 0, 1, 2 and so on", id2label)
    names = {int(_number(key) or 0): str(name) for key, name in id2label.items()}
    if len(set(names.values())) < len(names):
        raise _setting_error(source, "id2label", "must give each label a different name", id2label)
    ordered = {number: names[number] for number in sorted(names)}
    return {"id2label": ordered, "label2id": {name: number for number, name in ordered.items()}}


def _problem_type(source: str, values: Mapping[str, Any]) -> Problem | None:
    kind = values.get("problem_type")
    if kind is not None and kind not in get_args(Problem):
        raise _setting_error(source, "problem_type", f"must be null or {' or '.join(get_args(Problem))}", kind)
    return cast(Problem | None, kind)


def _setting_error(source: str, name: str, rule: str, value: Any, remedy: str = "correct this setting") -> TeacherError:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 100 else f"{shown[:100]}..."
    return TeacherError(f"teacher.model: {source}: {CONFIG_FILE}: {name} {rule}, but got {shown}; {remedy}")
