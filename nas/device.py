"""Devices: where a sub-network will run, on what, and in what form it is fed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from nas.files import Flag, Positive, Settings, Whole

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME)]
Length = Annotated[int, Field(ge=1, le=512, strict=True)]
_QUANTILES = 8
"""So many lengths stand for those of a task."""
_MOST_TEXTS = 64
_KINDS: dict[type, str] = {str: "word", list: "several", tuple: "several", dict: "weighted"}
_LENGTH_KIND = Discriminator(lambda value: _KINDS.get(type(value), "number"))
# What each runtime can compute in, on each processor.
_ABLE = {
    ("torch", "cpu"): ("float32", "bfloat16"),
    ("torch", "cuda"): ("float32", "bfloat16", "float16"),
    ("onnxruntime", "cpu"): ("float32",),
    ("onnxruntime", "cuda"): ("float32",),
    ("openvino", "cpu"): ("float32", "bfloat16"),
}
ELSEWHERE = ("onnxruntime",)
"""Runtimes that a device off the cluster may have: its runner brings no other."""


class Device(Settings):
    """A target. Compression choices are a network's affair; `number_format` is that of all that is not compressed."""

    name: Name
    where: Literal["here", "ray", "elsewhere"] = "here"
    """`here`: this machine. `ray`: the Ray node that offers a resource of this name. `elsewhere`: off the cluster,
    measured by an archive that `nas device bundle` writes."""
    runtime: Literal["torch", "onnxruntime", "openvino"] = "onnxruntime"
    compiled: Flag = False
    """Whether PyTorch compiles networks; with `processor = "cuda"` as CUDA graphs."""
    processor: Literal["cpu", "cuda"] = "cpu"
    number_format: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: Positive = 1
    pin_to: tuple[Whole, ...] = ()
    """The cores that the measuring process may use, by number; all where none is named."""
    batch_size: Positive = 1
    sequence_length: Annotated[
        Annotated[Length, Tag("number")]
        | Annotated[Literal["task"], Tag("word")]
        | Annotated[tuple[Length, ...], Field(min_length=1), Tag("several")]
        | Annotated[dict[Length, Positive], Field(min_length=1), Tag("weighted")],
        _LENGTH_KIND,
    ] = 128
    """Tokens of a text; several that come equally often; a table of lengths and how often each comes; or `task`, the
    lengths of the search set's texts."""
    warm_up: Positive = 3
    """Runs of a network before any counts; more until its time is stable."""
    repeats: Positive = 40
    """Rounds in which whole networks are measured, in turns."""

    @model_validator(mode="before")
    @classmethod
    def _number_lengths(cls, values: object) -> object:
        """The keys of a TOML or JSON table are texts."""
        if isinstance(values, dict) and isinstance(given := values.get("sequence_length"), dict):
            numbers = {int(key) if str(key).isdigit() else key: value for key, value in given.items()}
            return values | {"sequence_length": numbers}
        return values

    @model_validator(mode="after")
    def _possible(self) -> Self:
        able = _ABLE.get((self.runtime, self.processor))
        if able is None:
            raise ValueError(f"processor: {self.runtime} runs on the cpu here, but got {self.processor!r}; change one")
        if self.number_format not in able:
            raise ValueError(
                f"number_format: {self.runtime} on {self.processor} computes in {' or '.join(able)}, "
                f"but got {self.number_format!r}; change one of them"
            )
        if self.compiled and self.runtime != "torch":
            raise ValueError(f"compiled: torch alone compiles networks, but the runtime is {self.runtime!r}; remove it")
        if self.where == "elsewhere" and self.runtime not in ELSEWHERE:
            raise ValueError(
                f"runtime: a device elsewhere is measured with {' or '.join(ELSEWHERE)}, but got {self.runtime!r}; "
                "change it, or join the device to a Ray cluster"
            )
        if len(set(self.pin_to)) != len(self.pin_to):
            raise ValueError(f"pin_to: each core may stand once, but got {list(self.pin_to)}; drop the repeat")
        if self.pin_to and len(self.pin_to) < self.threads:
            raise ValueError(
                f"pin_to: {self.threads} threads need as many cores, but got {list(self.pin_to)}; name more"
            )
        if self.sequence_length == "task" and self.batch_size != 1:
            raise ValueError(
                f"batch_size: texts of the task's own lengths come one by one, but got {self.batch_size}; set it to 1, "
                "or sequence_length to numbers"
            )
        if isinstance(self.sequence_length, dict) and sum(self.sequence_length.values()) > _MOST_TEXTS:
            raise ValueError(
                f"sequence_length: numbers of texts must sum to at most {_MOST_TEXTS}, but got "
                f"{sum(self.sequence_length.values())}; divide them"
            )
        return self

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that texts have, each as often as any other. Those of the task have to be read from its data."""
        given = self.sequence_length
        if isinstance(given, str):
            raise ValueError(f"{self.name}: the task's own lengths are not known yet")
        if isinstance(given, dict):
            return tuple(length for length, times in sorted(given.items()) for _ in range(times))
        return (given,) if isinstance(given, int) else given

    def with_lengths_of(self, lengths: Sequence[int]) -> Device:
        """The same device; `task` becomes quantiles of the lengths given."""
        if self.sequence_length != "task":
            return self
        at = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        found = np.quantile(np.asarray(lengths), at, method="inverted_cdf").astype(int)
        return self.model_copy(update={"sequence_length": tuple(found.tolist())})

    @property
    def runtime_in_words(self) -> str:
        """For people: `torch compiled, cuda, float16`."""
        parts = [f"{self.runtime} compiled" if self.compiled else self.runtime]
        parts += [self.processor] if self.processor != "cpu" else []
        parts += [self.number_format] if self.number_format != "float32" else []
        return ", ".join(parts)

    @property
    def lengths_in_words(self) -> str:
        """For people."""
        if isinstance(self.sequence_length, str):
            return "texts of the task's own lengths"
        return f"{' or '.join(str(length) for length in sorted(set(self.lengths)))} tokens"
