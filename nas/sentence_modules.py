"""The sentence-transformers files that describe the modules after an encoder: pooling, projection and normalisation.

The folder of a model contains the encoder, a file `modules.json` that lists all modules in the order in which they are
applied, and a subfolder for each module after the encoder. `read_modules` and `write_modules` handle only the JSON
files. The weights of a projection, a module of the type `Dense`, are in a safetensors file next to its `config.json`,
which `nas/model/projection.py` reads. Two more files define how sentence-transformers passes texts to the encoder, and
how it compares embeddings: `text_settings` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from nas.errors import TeacherError
from nas.files import write_json
from nas.form import NetworkForm, Readout

MODULES_FILE = "modules.json"
TEXTS_FILE, SERVED_FILE = "sentence_bert_config.json", "config_sentence_transformers.json"
_OLD_TEXTS_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
SERVED_KEYS = ("prompts", "similarity_fn_name")
"""The settings in the teacher's `SERVED_FILE` that are copied to exports."""
DENSE_FOLDER = "2_Dense"
_POOLING_FOLDER, _NORMALIZE_FOLDER = "1_Pooling", "3_Normalize"
_READOUT_OF_MODE: dict[str, Readout] = {"mean": "mean", "cls": "first"}
_MODE_OF_FLAG = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The pooling mode that each boolean setting selects. Some files have one such setting per mode, instead of
`pooling_mode`.
"""
_IDENTITY = "torch.nn.modules.linear.Identity"
_CLASS_OF_ACTIVATION = {
    "tanh": "Tanh",
    "relu": "ReLU",
    "gelu": "GELU",
    "sigmoid": "Sigmoid",
    "silu": "SiLU",
    "leaky_relu": "LeakyReLU",
    "relu6": "ReLU6",
    "hardswish": "Hardswish",
    "mish": "Mish",
}
"""The class in torch of each activation of a projection, keyed by the activation's name in transformers' `ACT2FN`."""
_PATH_OF_ACTIVATION: dict[str | None, str] = {None: _IDENTITY} | {
    name: f"torch.nn.modules.activation.{kind}" for name, kind in _CLASS_OF_ACTIVATION.items()
}
_ACTIVATION_OF_PATH = {path: name for name, path in _PATH_OF_ACTIVATION.items()} | {
    f"torch.nn.{path.rpartition('.')[2]}": name for name, path in _PATH_OF_ACTIVATION.items()
}
"""The activations by import path, which is only compared and never imported. sentence-transformers replaces activations
outside of torch by Tanh, unless it runs with `trust_remote_code`, so they are not supported.
"""
_DENSE_SETTINGS = {
    "use_residual": False,
    "module_input_name": "sentence_embedding",
    "module_output_name": "sentence_embedding",
}
"""Settings of a projection that must be absent, null or have these values."""


@dataclass(frozen=True)
class Dense:
    """A projection of embeddings: a linear layer, followed by an activation."""

    folder: Path
    in_features: int
    out_features: int
    has_bias: bool
    activation: str | None
    """The name of the activation in transformers' `ACT2FN`; None if there is none."""


@dataclass(frozen=True)
class SentenceModules:
    """The modules after an encoder, as described by the files in its folder."""

    form: NetworkForm
    pooling: Path | None = None
    """The folder of the pooling module. None if the encoder's folder has no `modules.json`."""
    projections: tuple[Dense, ...] = ()
    """The projections, in the order in which they are applied. Only the last one may have an activation."""


def read_modules(folder: Path) -> SentenceModules:
    """Return the modules that follow the encoder stored in `folder`.

    If the folder has no `modules.json`, the only module is mean pooling over all tokens, as in sentence-transformers.
    Raises `TeacherError` for unsupported modules.
    """
    if not (folder / MODULES_FILE).is_file():
        return SentenceModules(NetworkForm("encoder", "mean"))
    try:
        listed = _read_json(folder / MODULES_FILE)
        modules = [(module["type"].rpartition(".")[2], module["path"]) for module in listed]
        paths = [folder / path for _, path in modules]
    except (TypeError, KeyError, AttributeError):
        raise _modules_error(
            folder,
            "must be a list of modules, each with a type and a path, but is not; copy or download the file again",
        ) from None
    kinds = [kind for kind, _ in modules]
    dense_count, is_normalized = kinds.count("Dense"), "Normalize" in kinds
    if kinds != ["Transformer", "Pooling", *["Dense"] * dense_count, *["Normalize"] * is_normalized]:
        raise _modules_error(
            folder,
            "must list Transformer, Pooling, any number of Dense and at most one Normalize, in this order, but lists "
            f"{', '.join(kinds) or 'no module'}; give another encoder",
        )
    if modules[0][1]:
        raise _modules_error(
            folder,
            f"the encoder must be in the folder itself, but is in {modules[0][1]!r}; move the files of this subfolder "
            'to the folder, and set the path to ""',
        )
    for path in paths:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise _modules_error(folder, f"names {path}, which is outside the folder; use a path inside the folder")
    form = NetworkForm("encoder", _readout(paths[1] / "config.json"), is_normalized)
    projections = tuple(_read_dense(path) for path in paths[2 : 2 + dense_count])
    _check_chain(projections)
    if projections:
        last = projections[-1]
        form = replace(form, projection_dim=last.out_features, projection_act=last.activation)
    return SentenceModules(form, paths[1], projections)


def _read_dense(folder: Path) -> Dense:
    """Return the projection in a module's folder. Raises `TeacherError` if its settings are not supported."""
    path = folder / "config.json"
    settings = _read_object(path)
    for name, only in _DENSE_SETTINGS.items():
        if (value := settings.get(name)) not in (None, only):
            text = f"{name} must be {only!r}, but is {value!r}; give another encoder"
            raise TeacherError(f"teacher.model: {path}: {text}")
    sizes: list[Any] = [settings.get(name) for name in ("in_features", "out_features")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise TeacherError(
            f"teacher.model: {path}: in_features and out_features must be whole numbers above 0, but are {sizes[0]!r} "
            f"and {sizes[1]!r}; copy or download the file again"
        )
    activation = settings.get("activation_function", _PATH_OF_ACTIVATION["tanh"])  # the default of Dense
    if not isinstance(activation, str) or activation not in _ACTIVATION_OF_PATH:
        raise TeacherError(
            f"teacher.model: {path}: activation_function must be one of {', '.join(_PATH_OF_ACTIVATION.values())}, but "
            f"is {activation!r}; give another encoder"
        )
    has_bias = settings.get("bias", True) is not False
    return Dense(folder, sizes[0], sizes[1], has_bias, _ACTIVATION_OF_PATH[activation])


def _check_chain(projections: Sequence[Dense]) -> None:
    """Raise `TeacherError` unless the projections can be replaced by a single one."""
    for first, second in pairwise(projections):
        if first.out_features != second.in_features:
            raise TeacherError(
                f"teacher.model: {second.folder / 'config.json'}: in_features must be {first.out_features}, the "
                f"out_features of {first.folder.name}, but is {second.in_features}; copy or download the folder again"
            )
        if first.activation is not None:
            raise TeacherError(
                f"teacher.model: {first.folder / 'config.json'}: of several Dense modules, only the last may have an "
                f"activation_function other than {_IDENTITY}, because the modules are merged into a single linear "
                f"layer, but this one has {_PATH_OF_ACTIVATION[first.activation]}; give another encoder"
            )


@dataclass(frozen=True)
class TextSettings:
    """How sentence-transformers changes texts before the tokenizer gets them."""

    most_tokens: int | None = None
    """The number of tokens to which texts are truncated; None if the tokenizer's own limit applies."""
    lower_case: bool = False
    """Whether texts are converted to lower case."""


def text_settings(folder: Path) -> TextSettings:
    """Return the settings with which sentence-transformers changes texts for the encoder in `folder`.

    Raises `TeacherError` if the encoder has a default prompt, because `nas` adds no prompts to texts. Also raises
    `TeacherError` if the pooling leaves out the tokens of prompts, or if a setting has a value of the wrong type.
    """
    served, (texts_path, texts) = _read_if_present(folder / SERVED_FILE), _text_values(folder)
    prompts, default = served.get("prompts") or {}, served.get("default_prompt_name")
    if not isinstance(prompts, dict) or not isinstance(default, str | None):
        raise TeacherError(
            f"teacher.model: {folder / SERVED_FILE}: prompts must be an object, and default_prompt_name a string or "
            "null, but are not; copy or download the file again"
        )
    if default and (prompt := prompts.get(default)):
        raise TeacherError(
            f"teacher.model: {folder / SERVED_FILE}: default_prompt_name must be null, but is {default!r}, so "
            f"sentence-transformers puts {prompt!r} before every text; set it to null in a copy of the folder, and "
            "write the prompt into the texts"
        )
    pooling_path = (read_modules(folder).pooling or folder / _POOLING_FOLDER) / "config.json"
    if _read_if_present(pooling_path).get("include_prompt") is False and any(prompts.values()):
        raise TeacherError(
            f"teacher.model: {pooling_path}: include_prompt must be true, but is false; pooling without the tokens of "
            "a prompt is not supported; give another encoder"
        )
    most_tokens = texts.get("max_seq_length")
    if most_tokens is not None and (type(most_tokens) is not int or most_tokens < 1):
        raise TeacherError(
            f"teacher.model: {texts_path}: max_seq_length must be a whole number above 0 or null, but is "
            f"{most_tokens!r}; correct the file"
        )
    return TextSettings(most_tokens, bool(texts.get("do_lower_case")))


def _text_values(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the file from which sentence-transformers reads the settings of texts, and its values.

    Older encoders have a file with another name. If there is no such file, the values are empty.
    """
    for path in (folder / name for name in (TEXTS_FILE, *_OLD_TEXTS_FILES)):
        if values := _read_if_present(path):
            return path, values
    return folder / TEXTS_FILE, {}


def _read_if_present(path: Path) -> dict[str, Any]:
    settings: Any = _read_json(path) if path.is_file() else {}
    return settings if isinstance(settings, dict) else {}


def _read_json(path: Path) -> Any:
    """Return the contents of a JSON file of an encoder. Raises `TeacherError` if it is missing or not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TeacherError(f"teacher.model: {path}: no such file; copy or download the encoder again") from None
    except ValueError:  # the text is not valid JSON or not UTF-8
        raise TeacherError(f"teacher.model: {path}: is not valid JSON; copy or download the file again") from None


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in one of an encoder's files. Raises `TeacherError` if the file holds something else."""
    settings = _read_json(path)
    if not isinstance(settings, dict):
        raise TeacherError(
            f"teacher.model: {path}: must hold a JSON object, but does not; copy or download the file again"
        )
    return settings


def _readout(path: Path) -> Readout:
    settings = _read_object(path)
    mode = settings.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else mode
    if not isinstance(modes, list):
        modes = [name for flag, name in _MODE_OF_FLAG.items() if settings.get(flag)]
    if len(modes) != 1 or modes[0] not in list(_READOUT_OF_MODE):  # a mode in a file may be unhashable
        raise TeacherError(
            f"teacher.model: {path}: pooling must be {' or '.join(_READOUT_OF_MODE)}, but is "
            f"{' and '.join(map(str, modes)) or 'not set'}; give another encoder"
        )
    return _READOUT_OF_MODE[modes[0]]


def write_modules(folder: Path, form: NetworkForm, hidden_size: int) -> None:
    """Write the files that describe the modules after an encoder to the encoder's folder.

    If the form sets `projection_dim`, the modules include a projection with this number of outputs. Its weights are not
    written. The type names in these files are valid in all versions of sentence-transformers since 2.0.
    """
    mode = next(mode for mode, readout in _READOUT_OF_MODE.items() if readout == form.readout)
    modules: list[tuple[str, str, Mapping[str, Any] | None]] = [("Transformer", "", None)]
    pooling = {"word_embedding_dimension": hidden_size} | {flag: name == mode for flag, name in _MODE_OF_FLAG.items()}
    modules.append(("Pooling", _POOLING_FOLDER, pooling))
    if form.projection_dim is not None:
        dense = {
            "in_features": hidden_size,
            "out_features": form.projection_dim,
            "bias": True,
            "activation_function": _PATH_OF_ACTIVATION[form.projection_act],
        }
        modules.append(("Dense", DENSE_FOLDER, dense))
    if form.normalize:
        modules.append(("Normalize", _NORMALIZE_FOLDER, {}))
    for _, path, settings in modules:
        if settings is not None:
            (folder / path).mkdir(exist_ok=True)
            write_json(folder / path / "config.json", dict(settings))
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path, _) in enumerate(modules)
    ]
    write_json(folder / MODULES_FILE, listed)


def _modules_error(folder: Path, text: str) -> TeacherError:
    return TeacherError(f"teacher.model: {folder / MODULES_FILE}: {text}")
