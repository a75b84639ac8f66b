"""The sentence-transformers files that describe the modules after an encoder: pooling, projection and normalisation.

The folder of a model holds the encoder, a file `modules.json` that lists all modules in the order in which they are
applied, and a subfolder for each module after the encoder. `read_modules` and `write_modules` handle only the JSON
files. The weights of a projection are in a safetensors file next to its `config.json`. Two more files define how
sentence-transformers passes texts to the encoder, and how it compares embeddings: `text_settings` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import TeacherError
from nas.files import read_json, write_json
from nas.form import NetworkForm, Readout

MODULES_FILE = "modules.json"
TEXTS_FILE, SERVED_FILE = "sentence_bert_config.json", "config_sentence_transformers.json"
SERVED_KEYS = ("prompts", "similarity_fn_name")
"""The settings in `SERVED_FILE` that an export keeps."""
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
_MODULE_TYPES = ("Transformer", "Pooling", "Dense", "Normalize")
"""The last parts of the type names of the supported modules."""


@dataclass(frozen=True)
class SentenceModules:
    """The modules after an encoder, as described by the files in its folder."""

    form: NetworkForm
    dense: Path | None = None
    """The folder of the projection, or None if there is no projection."""


def read_modules(folder: Path) -> SentenceModules:
    """Return the modules that follow the encoder stored in `folder`.

    If the folder has no `modules.json`, the only module is mean pooling over all tokens, as in sentence-transformers.
    Raises `TeacherError` for unsupported modules.
    """
    if not (folder / MODULES_FILE).is_file():
        return SentenceModules(NetworkForm("encoder", "mean"))
    try:
        listed = read_json(folder / MODULES_FILE, TeacherError)
        modules = [(module["type"].rpartition(".")[2], module["path"]) for module in listed]
    except (TypeError, KeyError, AttributeError):
        raise _modules_error(
            folder, "must be a list of modules, each with a type and a path, but it is not; copy or download it again"
        ) from None
    kinds = [kind for kind, _ in modules]
    unknown = [kind for kind in kinds if kind not in _MODULE_TYPES]
    if unknown or kinds[:2] != ["Transformer", "Pooling"] or len(set(kinds)) < len(kinds):
        raise _modules_error(
            folder,
            f"must list Transformer, Pooling and at most one Dense and one Normalize, but lists {', '.join(kinds)}; "
            "give another encoder",
        )
    if modules[0][1]:
        raise _modules_error(
            folder,
            f"the encoder must be in the folder itself, but is in {modules[0][1]!r}; move the files of this subfolder "
            'to the folder, and set the path to ""',
        )
    paths = {kind: folder / path for kind, path in modules}
    for path in paths.values():
        if not path.resolve().is_relative_to(folder.resolve()):
            raise _modules_error(folder, f"names {path}, which is outside the folder; use a path inside it")
    form = NetworkForm("encoder", _readout(paths["Pooling"] / "config.json"), "Normalize" in paths)
    return SentenceModules(form, paths.get("Dense"))


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
    `TeacherError` if the pooling leaves out the tokens of prompts.
    """
    served, texts = _read_if_present(folder / SERVED_FILE), _read_if_present(folder / TEXTS_FILE)
    prompts, default = served.get("prompts") or {}, served.get("default_prompt_name")
    if default and (prompt := prompts.get(default)):
        raise TeacherError(
            f"teacher.model: {folder / SERVED_FILE}: default_prompt_name must be null, but is {default!r}, so "
            f"sentence-transformers puts {prompt!r} before every text; set it to null in a copy of the folder, and "
            "write the prompt into the texts"
        )
    pooling = _read_if_present(folder / _POOLING_FOLDER / "config.json")
    if pooling.get("include_prompt") is False and any(prompts.values()):
        raise TeacherError(
            f"teacher.model: {folder / _POOLING_FOLDER / 'config.json'}: include_prompt must be true, but is false; "
            "pooling without the tokens of a prompt is not supported; give another encoder"
        )
    most_tokens = texts.get("max_seq_length")
    return TextSettings(most_tokens if isinstance(most_tokens, int) else None, texts.get("do_lower_case") is True)


def _read_if_present(path: Path) -> dict[str, Any]:
    settings: Any = read_json(path, TeacherError) if path.is_file() else {}
    return settings if isinstance(settings, dict) else {}


def _readout(path: Path) -> Readout:
    settings = read_json(path, TeacherError)
    mode = settings.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else mode
    if not isinstance(modes, list):
        modes = [name for flag, name in _MODE_OF_FLAG.items() if settings.get(flag)]
    if len(modes) != 1 or modes[0] not in _READOUT_OF_MODE:
        raise TeacherError(
            f"teacher.model: {path}: pooling must be {' or '.join(_READOUT_OF_MODE)}, but is "
            f"{' and '.join(map(str, modes)) or 'not set'}; give another encoder"
        )
    return _READOUT_OF_MODE[modes[0]]


def write_modules(folder: Path, form: NetworkForm, hidden_size: int, outputs: int | None = None) -> None:
    """Write the files that describe the modules after an encoder to the encoder's folder.

    If `outputs` is set, the modules include a projection to that many dimensions. Its weights are not written. The type
    names in these files are valid in all versions of sentence-transformers since 2.0.
    """
    mode = next(mode for mode, readout in _READOUT_OF_MODE.items() if readout == form.readout)
    modules: list[tuple[str, str, Mapping[str, Any] | None]] = [("Transformer", "", None)]
    pooling = {"word_embedding_dimension": hidden_size} | {flag: name == mode for flag, name in _MODE_OF_FLAG.items()}
    modules.append(("Pooling", _POOLING_FOLDER, pooling))
    if outputs is not None:
        dense = {
            "in_features": hidden_size,
            "out_features": outputs,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
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
