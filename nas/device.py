"""Devices: where a network will run, and with which runtime, threads, batch size and text lengths.

A study file declares one or more `Device`s. `nas.latency` measures on them, and budgets refer to them by name.
"""

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
"""The number of quantiles that represent the text lengths of a task."""
_MAX_TEXTS = 64
_LENGTH_KINDS: dict[type, str] = {str: "word", list: "several", tuple: "several", dict: "weighted"}
_LENGTH_DISCRIMINATOR = Discriminator(lambda value: _LENGTH_KINDS.get(type(value), "number"))
# The number formats that each runtime supports on each processor.
_NUMBER_FORMATS = {
    ("torch", "cpu"): ("float32", "bfloat16"),
    ("torch", "cuda"): ("float32", "bfloat16", "float16"),
    ("onnxruntime", "cpu"): ("float32",),
    ("onnxruntime", "cuda"): ("float32",),
    ("openvino", "cpu"): ("float32", "bfloat16"),
}
ELSEWHERE = ("onnxruntime",)
"""The runtimes allowed for a device outside the cluster. The archive that measures there supports only these."""


class Device(Settings):
    """A device that networks are measured on and exported for.

    Compression methods are part of a network. `number_format` applies to the parts of a network without compression.
    """

    name: Name
    where: Literal["here", "ray", "elsewhere"] = "here"
    """`here`: this machine. `ray`: the Ray node that offers a resource with this device's name. `elsewhere`: a machine
    outside the cluster, on which the archive that `nas device bundle` writes measures networks."""
    runtime: Literal["torch", "onnxruntime", "openvino"] = "onnxruntime"
    compiled: Flag = False
    """Whether PyTorch compiles networks. If the processor is `cuda`, compiled networks run as CUDA graphs."""
    processor: Literal["cpu", "cuda"] = "cpu"
    number_format: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: Positive = 1
    pin_to: tuple[Whole, ...] = ()
    """The indices of the cores that the measuring process may use; all cores if empty."""
    batch_size: Positive = 1
    sequence_length: Annotated[
        Annotated[Length, Tag("number")]
        | Annotated[Literal["task"], Tag("word")]
        | Annotated[tuple[Length, ...], Field(min_length=1), Tag("several")]
        | Annotated[dict[Length, Positive], Field(min_length=1), Tag("weighted")],
        _LENGTH_DISCRIMINATOR,
    ] = 128
    """Tokens per text: one length, several equally frequent lengths, a table that maps each length to its frequency, or
    `task` for the lengths of the texts in the search set."""
    warm_up: Positive = 3
    """The least number of warm-up runs per network. Their latencies are ignored, and further runs follow until the
    latency is stable."""
    repeats: Positive = 40
    """The number of interleaved rounds in which complete networks are measured."""

    @model_validator(mode="before")
    @classmethod
    def _number_lengths(cls, values: object) -> object:
        """Convert the keys of a table of lengths to numbers, since keys in TOML and JSON are strings."""
        if isinstance(values, dict) and isinstance(lengths := values.get("sequence_length"), dict):
            numbers = {int(key) if str(key).isdigit() else key: value for key, value in lengths.items()}
            return values | {"sequence_length": numbers}
        return values

    @model_validator(mode="after")
    def _combination_is_possible(self) -> Self:
        supported = _NUMBER_FORMATS.get((self.runtime, self.processor))
        if supported is None:
            raise ValueError(
                f"processor: {self.runtime} is supported only on the cpu, but got {self.processor!r}; change the "
                "processor or the runtime"
            )
        if self.number_format not in supported:
            raise ValueError(
                f"number_format: {self.runtime} on {self.processor} supports {' and '.join(supported)}, "
                f"but got {self.number_format!r}; change the number format, the runtime or the processor"
            )
        if self.compiled and self.runtime != "torch":
            raise ValueError(
                f"compiled: only torch compiles networks, but the runtime is {self.runtime!r}; remove compiled"
            )
        if self.where == "elsewhere" and self.runtime not in ELSEWHERE:
            raise ValueError(
                f"runtime: a device with where = 'elsewhere' is measured with {' or '.join(ELSEWHERE)}, but got "
                f"{self.runtime!r}; change the runtime, or join the device to a Ray cluster"
            )
        if len(set(self.pin_to)) != len(self.pin_to):
            raise ValueError(f"pin_to: each core may occur only once, but got {list(self.pin_to)}; remove the repeats")
        if self.pin_to and len(self.pin_to) < self.threads:
            raise ValueError(
                f"pin_to: {self.threads} threads need at least as many cores, but got {list(self.pin_to)}; add cores "
                "or reduce threads"
            )
        if self.sequence_length == "task" and self.batch_size != 1:
            raise ValueError(
                f"batch_size: must be 1 if sequence_length is 'task', but got {self.batch_size}; set batch_size to 1, "
                "or sequence_length to numbers"
            )
        if isinstance(self.sequence_length, dict) and sum(self.sequence_length.values()) > _MAX_TEXTS:
            raise ValueError(
                f"sequence_length: the frequencies must sum to at most {_MAX_TEXTS}, but their sum is "
                f"{sum(self.sequence_length.values())}; divide them by a common factor"
            )
        return self

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The length, in tokens, of each text to measure. Each length occurs as often as `sequence_length` states.

        Raises `ValueError` if `sequence_length` is `task` and `with_lengths_of` has not replaced it.
        """
        lengths = self.sequence_length
        if isinstance(lengths, str):
            raise ValueError(f"{self.name}: the text lengths of the task are not known yet")
        if isinstance(lengths, dict):
            return tuple(length for length, times in sorted(lengths.items()) for _ in range(times))
        return (lengths,) if isinstance(lengths, int) else lengths

    def with_lengths_of(self, lengths: Sequence[int]) -> Device:
        """Return a copy of the device whose `sequence_length` is quantiles of `lengths` (in tokens) instead of `task`.

        If `sequence_length` is not `task`, the device itself is returned.
        """
        if self.sequence_length != "task":
            return self
        shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        quantiles = np.quantile(np.asarray(lengths), shares, method="inverted_cdf").astype(int)
        return self.model_copy(update={"sequence_length": tuple(quantiles.tolist())})

    @property
    def runtime_in_words(self) -> str:
        """The runtime as shown to people, such as `torch compiled, cuda, float16`."""
        parts = [f"{self.runtime} compiled" if self.compiled else self.runtime]
        parts += [self.processor] if self.processor != "cpu" else []
        parts += [self.number_format] if self.number_format != "float32" else []
        return ", ".join(parts)

    @property
    def lengths_in_words(self) -> str:
        """The text lengths as shown to people, such as `16 or 40 tokens`."""
        if isinstance(self.sequence_length, str):
            return "text lengths as in the task"
        return f"{' or '.join(str(length) for length in sorted(set(self.lengths)))} tokens"
