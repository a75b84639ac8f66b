"""Read a teacher's weights from safetensors files.

`Checkpoint.of` reads only the names and shapes of the weights. It translates the names to those of the family's class
in transformers, and checks names and shapes against the configuration. `Checkpoint.load` then loads the weights in
float32. The head may be missing or have the wrong size, because the teacher can be fine-tuned for the task with a new
head. Any other missing weight is an error, because it would have to be trained from scratch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from nas.errors import TeacherError
from nas.form import NetworkType
from nas.model.families import FAMILIES, Family, family_of
from nas.model.modeling import types_named
from nas.model.stock import AUTO_CLASSES
from nas.model.teacher_config import CONFIG_FILE, SUPPORTED, teacher_file

WEIGHTS_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_SHARD = re.compile(r"model-[0-9]+-of-[0-9]+\.safetensors")
_PICKLED_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_COMPLETE_REMEDY = f"give a complete checkpoint of {SUPPORTED}"
_MULTIPLE_CHOICE = "ForMultipleChoice"
"""The suffix of multiple-choice classes, whose classifier has the same parameter names as a text classifier."""
_ADAPTER_REMEDY = "merge the adapter into its model (merge_and_unload of peft)"
_WRAPPED = {
    ".lora_": _ADAPTER_REMEDY,
    ".modules_to_save.": _ADAPTER_REMEDY,
    ".original_module.": _ADAPTER_REMEDY,
    "weight_orig": "make the pruning permanent (torch.nn.utils.prune.remove), and save the model again",
    "weight_mask": "make the pruning permanent (torch.nn.utils.prune.remove), and save the model again",
    ".parametrizations.": "remove the parametrisation (remove_parametrizations of torch), and save the model again",
    ".absmax": "give the checkpoint before quantisation",
    ".quant_map": "give the checkpoint before quantisation",
}
"""Parts of the names of weights that tools add to a model, mapped to what the user must do to remove these weights."""
_BUFFERS = ("position_ids", "token_type_ids")
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_OTHER_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
_FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
_CONVERSION_COMMAND = (
    'python -c "import glob, torch; from safetensors.torch import save_file; save_file({name: weight.clone().'
    "contiguous() for file in glob.glob('pytorch_model*.bin') for name, weight in torch.load(file, map_location='cpu', "
    "weights_only=True).items()}, 'model.safetensors', {'format': 'pt'})\""
)
"""A command that converts any pickled checkpoint to safetensors without running code from the checkpoint."""


@dataclass(frozen=True)
class _StoredTensor:
    """The file, name, shape and data type of a stored weight."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a teacher, keyed by the parameter names of the family's class in transformers."""

    source: str
    tensors: Mapping[str, _StoredTensor]
    shapes: Mapping[str, tuple[int, ...]]
    """The shapes that the model's parameters must have according to the configuration, keyed by parameter name."""
    head: frozenset[str]
    """The names of the head's parameters. The head consists of the classifier and, in most families, a pooler."""
    classifier: str
    """The parameter name of the classifier's weight matrix, (labels, hidden size)."""
    network_type: NetworkType
    encoder_prefix: str
    """A prefix that parameter names have in this object, but not in the loaded model. It is empty if the model has a
    head.
    """

    @classmethod
    def of(cls, source: str, config: PreTrainedConfig, network_type: NetworkType = "sequence_classifier") -> Checkpoint:
        """Read the names and shapes of the weights in a folder, for a model of the type `network_type`.

        Raises `TeacherError` if there are no safetensors files, if a file is damaged, or if the encoder's weights do
        not fit the configuration.
        """
        with torch.device("meta"):
            model = AUTO_CLASSES[network_type].from_config(config)
        family = family_of(config.model_type)
        base = f"{family.base}."
        prefix = base if network_type == "encoder" else ""  # the parameter names of an encoder lack the prefix
        shapes = {prefix + name: tuple(value.shape) for name, value in model.named_parameters()}
        head = frozenset(name for name in shapes if not name.startswith(base) or name.startswith(f"{base}pooler."))
        classifier = family.parameter("classifier.weight", network_type)
        tensors = _under_family_names(source, family, shapes, _stored_tensors(source))
        if _has_other_head(config, network_type):
            tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
        checkpoint = cls(source, tensors, shapes, head, classifier, network_type, prefix)
        checkpoint._check_encoder(base)
        return checkpoint

    @property
    def is_encoder(self) -> bool:
        """Whether the model is an encoder without a head."""
        return self.network_type == "encoder"

    @property
    def labels(self) -> int | None:
        """The number of outputs of the stored classifier; None if the checkpoint has no classifier."""
        tensor = self.tensors.get(self.classifier)
        return tensor.shape[0] if tensor and tensor.shape else None

    @property
    def new(self) -> list[str]:
        """The names of the head's parameters that the checkpoint lacks or stores with the wrong shape."""
        return sorted(
            name for name in self.head if name not in self.tensors or self.tensors[name].shape != self.shapes[name]
        )

    def _check_encoder(self, base: str) -> None:
        encoder = self.shapes.keys() - self.head
        missing = sorted(encoder - self.tensors.keys())
        if missing:
            more = f" and {len(missing) - 1} more of" if missing[1:] else ", one of"
            remedy = wrapper_remedy(self.tensors) or _COMPLETE_REMEDY
            raise self._teacher_error(
                f"lacks {missing[0]}{more} the {len(encoder)} weights that {CONFIG_FILE} requires; {remedy}"
            )
        stored = {name for name in self.tensors if name.startswith(base) and not name.startswith(f"{base}pooler.")}
        extra = sorted(name for name in stored - encoder if not name.endswith(_BUFFERS))
        if extra:
            raise self._teacher_error(
                f"has the weight {extra[0]}, which a model with this {CONFIG_FILE} does not have; "
                f"{wrapper_remedy(extra) or f'correct {CONFIG_FILE}'}"
            )
        for name in sorted(encoder):
            tensor, expected = self.tensors[name], self.shapes[name]
            if tensor.shape != expected:
                raise self._teacher_error(
                    f"{name} has the shape {list(tensor.shape)}, but {CONFIG_FILE} requires {list(expected)}; correct "
                    f"{CONFIG_FILE}"
                )
        for name in sorted(self.shapes.keys() & self.tensors.keys()):
            _check_type(self.source, name, self.tensors[name].dtype)

    def load(self, config: PreTrainedConfig) -> PreTrainedModel:
        """Load the model in float32. The parameters in `new` are initialised at random.

        Raises `TeacherError` if a weight contains NaN or infinite values.
        """
        model: PreTrainedModel = AUTO_CLASSES[self.network_type].from_config(config)
        loaded = {name: self.tensors[name] for name in self.shapes if name not in self.new}
        state = {}
        for file in sorted({tensor.file for tensor in loaded.values()}):
            with _open_weights(self.source, file) as weights:
                for name, tensor in loaded.items():
                    if tensor.file == file:
                        value = _finite(self.source, name, weights.get_tensor(tensor.name))
                        state[name.removeprefix(self.encoder_prefix)] = value
        model.load_state_dict(state, strict=False)
        return model.float()

    def _teacher_error(self, text: str) -> TeacherError:
        return TeacherError(f"teacher.model: {self.source}: {text}")


def load_tensors(source: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Load the tensors of a folder in float32. Their names and shapes must be those in `shapes`.

    Raises `TeacherError` if they are not, or for the same reasons as `Checkpoint.of` and `Checkpoint.load`.
    """
    stored = {tensor.name: tensor for tensor in _stored_tensors(source)}
    found = {name: list(tensor.shape) for name, tensor in stored.items()}
    expected = {name: list(shape) for name, shape in shapes.items()}
    if found != expected:
        raise TeacherError(
            f"teacher.model: {source}: {CONFIG_FILE} requires the weights {_in_words(expected)}, but "
            f"{WEIGHTS_FILE} has {_in_words(found)}; copy or download the folder again"
        )
    values = {}
    for name, tensor in stored.items():
        _check_type(source, name, tensor.dtype)
        with _open_weights(source, tensor.file) as weights:
            values[name] = _finite(source, name, weights.get_tensor(name))
    return values


def _in_words(shapes: Mapping[str, list[int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "none"


def _check_type(source: str, name: str, dtype: str) -> None:
    if dtype not in _FLOAT_TYPES:
        raise TeacherError(
            f"teacher.model: {source}: {name} is stored as {dtype}, but must be a floating-point weight "
            f"({', '.join(_FLOAT_TYPES)}); give a checkpoint that is not quantised"
        )


def _finite(source: str, name: str, value: torch.Tensor) -> torch.Tensor:
    """Return a weight in float32. Raises `TeacherError` if it contains NaN or infinite values."""
    converted = value.float()
    if not torch.isfinite(converted).all():
        raise TeacherError(
            f"teacher.model: {source}: {name} contains values that are not finite (NaN or infinity); give another "
            "checkpoint"
        )
    return converted


def wrapper_remedy(names: Iterable[str]) -> str | None:
    """Return the remedy if one of the names shows that a tool has wrapped the weights (see `_WRAPPED`), or None."""
    return next((remedy for name in names for part, remedy in _WRAPPED.items() if part in name), None)


def _has_other_head(config: PreTrainedConfig, network_type: NetworkType) -> bool:
    """Whether the class names in the configuration show that the stored head is not of this network type.

    The weights of heads of different types may have the same names.
    """
    names = config.architectures or ()
    named = types_named(names)
    return network_type not in named and bool(named or any(name.endswith(_MULTIPLE_CHOICE) for name in names))


def _stored_tensors(source: str) -> Iterator[_StoredTensor]:
    """Yield a description of every stored tensor, read from the headers of the checkpoint's files."""
    for file in _weight_files(source):
        with _open_weights(source, file) as weights:
            for name in weights.keys():  # noqa: SIM118 (it is not a mapping)
                part = weights.get_slice(name)
                yield _StoredTensor(file, name, tuple(part.get_shape()), part.get_dtype())


@contextmanager
def _open_weights(source: str, file: Path) -> Iterator[Any]:
    """Open a safetensors file. Raises `TeacherError` if the file is damaged."""
    try:
        with safe_open(file, "pt") as weights:
            yield weights
    except (SafetensorError, OSError) as problem:
        raise TeacherError(
            f"teacher.model: {source}: {file.name} cannot be loaded: {problem}; the file is damaged or incomplete: "
            "copy or download it again"
        ) from None


def _weight_files(source: str) -> list[Path]:
    """Return the safetensors files of a checkpoint: a single file, or the shards that an index lists."""
    if single_file := teacher_file(source, WEIGHTS_FILE):
        return [single_file]
    index = teacher_file(source, _INDEX_FILE)
    if index is None:
        raise _missing_weights_error(source)
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TeacherError(
            f"teacher.model: {source}: {_INDEX_FILE} is not a valid index; copy or download it again"
        ) from None
    files = {name: teacher_file(source, name) for name in shards if Path(name).name == name}
    for name in shards:
        if files.get(name) is None:
            raise TeacherError(
                f"teacher.model: {source}: the checkpoint has no {name}, which {_INDEX_FILE} lists; copy or "
                "download it again"
            )
    return [file for file in files.values() if file]


def _missing_weights_error(source: str) -> TeacherError:
    pickled = next((name for name in _PICKLED_FILES if teacher_file(source, name)), None)
    if pickled:
        return TeacherError(
            f"teacher.model: {source}: the checkpoint has {pickled} but no {WEIGHTS_FILE}; pickled weights are not "
            "read, because loading them can run code; to convert them, run this command in the folder: "
            f"{_CONVERSION_COMMAND}"
        )
    other_files = sorted(
        path.name for path in Path(source).iterdir() if path.is_file() and path.suffix in _OTHER_WEIGHT_SUFFIXES
    )
    if shard := next((name for name in other_files if _SHARD.fullmatch(name)), None):
        return TeacherError(
            f"teacher.model: {source}: the checkpoint has parts of its weights, such as {shard}, but no {_INDEX_FILE}, "
            "which lists them; copy or download it again"
        )
    contents = f", only {other_files[0]}" if other_files else ""
    return TeacherError(
        f"teacher.model: {source}: the checkpoint has no {WEIGHTS_FILE}{contents}; load the model with transformers "
        "and save it to this folder with save_pretrained"
    )


def _under_family_names(
    source: str, family: Family, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[_StoredTensor]
) -> dict[str, _StoredTensor]:
    """Return the tensors, keyed by the parameter names of the family's class in transformers.

    Prefixes that wrappers add to all names (`module.`, `_orig_mod.`, `model.`) are removed. The weights of an encoder
    that was saved without a head get the family's prefix (`bert.`). In checkpoints from TensorFlow, the old names of
    norm parameters (`gamma`, `beta`) are replaced by the current names (`weight`, `bias`).
    """
    by_stored_name = {tensor.name: tensor for tensor in tensors}
    # In the name of the token embeddings, the part before the anchor is the encoder's prefix.
    base, anchor = f"{family.base}.", family.token_embeddings
    anchors = [name for name in by_stored_name if name == anchor or name.endswith(f".{anchor}")]
    standard = [name for name in anchors if name == base + anchor]
    if len(standard or anchors) != 1:
        problem = f"several encoders ({', '.join(sorted(anchors))})" if anchors else f"no {base}{anchor}"
        raise TeacherError(f"teacher.model: {source}: the checkpoint has {problem}; give a checkpoint of {SUPPORTED}")
    prefix = (standard or anchors)[0].removesuffix(anchor)
    outer = prefix.removesuffix(base)
    same_anchor_bases = (
        other_family.base
        for other_family in FAMILIES.values()
        if other_family.token_embeddings == anchor and other_family.base != family.base
    )
    other_base = next((name for name in same_anchor_bases if name in outer.split(".")), None)
    if other_base:
        raise TeacherError(
            f"teacher.model: {source}: {CONFIG_FILE}: model_type is {family.model_type!r}, but the names of the "
            f"weights begin with {prefix!r}; correct model_type"
        )
    parts = {name.split(".")[1] for name in shapes if name.startswith(base)} | {"pooler"}
    renamed: dict[str, _StoredTensor] = {}
    for name, tensor in by_stored_name.items():
        inner = name.removeprefix(prefix)
        is_inside = name.startswith(prefix) and inner.split(".")[0] in parts
        usual_name = base + inner if is_inside else name.removeprefix(outer)
        for old, current in _OLD_NAMES.items():
            usual_name = usual_name.replace(old, current)
        if usual_name in renamed:
            stored_names = f"{renamed[usual_name].name} and {tensor.name}"
            raise TeacherError(
                f"teacher.model: {source}: the checkpoint has the weight {usual_name} twice, as {stored_names}; "
                "remove one"
            )
        renamed[usual_name] = tensor
    return renamed
