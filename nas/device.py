"""Devices: where a network will run, and with which runtime, threads, batch size and text lengths.

A study file declares one or more `Device`s. `nas.latency` measures on them, and budgets refer to them by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from nas.errors import listed
from nas.files import Flag, Positive, Settings, Whole
from nas.runtimes import RUNTIMES

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
NAME_RULE = "must consist of letters, digits, dots, dashes and underscores, and begin with a letter or digit"
Length = Annotated[int, Field(ge=1, le=512, strict=True)]
_QUANTILES = 8
"""The number of quantiles that represent the text lengths of a task."""
_MAX_TEXTS = 64
_LENGTH_KINDS: dict[type, str] = {str: "word", list: "several", tuple: "several", dict: "weighted"}
_LENGTH_DISCRIMINATOR = Discriminator(lambda value: _LENGTH_KINDS.get(type(value), "number"))


def _valid_name(name: str) -> str:
    """Return the name of a device, budget or study. Raises `ValueError` if files cannot be named after it."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{NAME_RULE}, but got {name!r}; change the name")
    return name


Name = Annotated[str, AfterValidator(_valid_name)]


def _registered(runtime: object) -> str:
    """Return the name of a runtime. Raises a validation error if there is no such runtime."""
    if not isinstance(runtime, str) or runtime not in RUNTIMES:
        names = listed([repr(name) for name in RUNTIMES])
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": names})
    return runtime


class Device(Settings):
    """A device on which networks are measured, and for which they are exported.

    `number_format` applies only to the uncompressed parts of a network. A compression method defines the format of
    compressed parts.
    """

    name: Name
    where: Literal["here", "ray", "elsewhere"] = "here"
    """`here` is this machine. `ray` is the Ray node that offers a resource with the name of this device. `elsewhere` is
    a machine outside the cluster. It measures networks by running the archive that `nas device bundle` writes.
    """
    runtime: Annotated[str, BeforeValidator(_registered)] = "onnxruntime"
    compiled: Flag = False
    """Whether PyTorch compiles networks. If the processor is `cuda`, compiled networks run as CUDA graphs."""
    processor: Literal["cpu", "cuda"] = "cpu"
    number_format: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: Positive = 1
    pin_to: tuple[Whole, ...] = ()
    """The indices of the cores that the measuring process may use. If empty, it may use all cores."""
    batch_size: Positive = 1
    sequence_length: Annotated[
        Annotated[Length, Tag("number")]
        | Annotated[Literal["task"], Tag("word")]
        | Annotated[tuple[Length, ...], Field(min_length=1), Tag("several")]
        | Annotated[dict[Length, Positive], Field(min_length=1), Tag("weighted")],
        _LENGTH_DISCRIMINATOR,
    ] = 128
    """The number of tokens per text: one number, several equally frequent numbers, a table of numbers and their
    frequencies, or `task` for the text lengths in the search set.
    """
    warm_up: Positive = 3
    """The minimum number of warm-up runs per network. Their latencies are ignored. If the latency is not yet stable,
    more warm-up runs follow.
    """
    repeats: Positive = 40
    """The number of rounds in which complete networks are measured. In each round, every network is measured in turn.
    """

    @model_validator(mode="before")
    @classmethod
    def _number_lengths(cls, values: object) -> object:
        """Convert the keys of a table of lengths to numbers, because keys in TOML and JSON are strings."""
        if isinstance(values, dict) and isinstance(lengths := values.get("sequence_length"), dict):
            numbers = {int(key) if str(key).isdigit() else key: value for key, value in lengths.items()}
            return values | {"sequence_length": numbers}
        return values

    @model_validator(mode="after")
    def _combination_is_possible(self) -> Self:
        number_formats = RUNTIMES[self.runtime].number_formats
        if self.processor not in number_formats:
            raise ValueError(
                f"processor: {self.runtime} is supported only on the {listed(number_formats)}, but got "
                f"{self.processor!r}; change the processor or the runtime"
            )
        supported = number_formats[self.processor]
        if self.number_format not in supported:
            raise ValueError(
                f"number_format: {self.runtime} on {self.processor} supports only {' and '.join(supported)}, "
                f"but got {self.number_format!r}; change the number format, the runtime or the processor"
            )
        if self.compiled and not RUNTIMES[self.runtime].compiles:
            compiling = listed([name for name, runtime in RUNTIMES.items() if runtime.compiles])
            raise ValueError(
                f"compiled: only {compiling} compiles networks, but the runtime is {self.runtime!r}; remove compiled"
            )
        if self.where == "elsewhere" and not RUNTIMES[self.runtime].runner_suffices:
            in_archives = listed([name for name, runtime in RUNTIMES.items() if runtime.runner_suffices])
            raise ValueError(
                f"runtime: must be {in_archives} if where = 'elsewhere', but got {self.runtime!r}; change the runtime, "
                "or join the device to a Ray cluster and set where = 'ray'"
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
        """The lengths, in tokens, of the texts on which latency is measured.

        Each length occurs as often as `sequence_length` states.

        Raises `ValueError` if `sequence_length` is `task`. In this case, use the device that `with_lengths_of` returns.
        """
        lengths = self.sequence_length
        if isinstance(lengths, str):
            raise ValueError(f"{self.name}: the text lengths of the task are not known yet")
        if isinstance(lengths, dict):
            return tuple(length for length, times in sorted(lengths.items()) for _ in range(times))
        return (lengths,) if isinstance(lengths, int) else lengths

    def with_lengths_of(self, lengths: Sequence[int]) -> Device:
        """Return a copy of the device whose `sequence_length` consists of quantiles of `lengths` (in tokens).

        If `sequence_length` is not `task`, return the device itself instead.
        """
        if self.sequence_length != "task":
            return self
        shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        quantiles = np.quantile(np.asarray(lengths), shares, method="inverted_cdf").astype(int)
        return self.model_copy(update={"sequence_length": tuple(quantiles.tolist())})

    @property
    def runtime_in_words(self) -> str:
        """A description of the runtime for users, such as `torch compiled, cuda, float16`."""
        parts = [f"{self.runtime} compiled" if self.compiled else self.runtime]
        parts += [self.processor] if self.processor != "cpu" else []
        parts += [self.number_format] if self.number_format != "float32" else []
        return ", ".join(parts)

    @property
    def lengths_in_words(self) -> str:
        """A description of the text lengths for users, such as `16 or 40 tokens`."""
        if isinstance(self.sequence_length, str):
            return "text lengths as in the task"
        return f"{' or '.join(str(length) for length in sorted(set(self.lengths)))} tokens"
