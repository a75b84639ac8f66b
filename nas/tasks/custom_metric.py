"""User-defined metrics: functions that score the predictions of a network against the labels.

Only kinds of task with one answer per text support them. A study names such a function as `module:function`. The
function must belong to an installed package, so that a study file or a data folder of unknown origin cannot run its own
code. A Python program, such as a notebook, can also pass a function to `nas.run_of`. `register` then makes the function
known to this process.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any, TypeVar

import numpy as np

from nas.errors import DataError, first_line, shown
from nas.tasks.metric import Metric

Function = Callable[[np.ndarray, np.ndarray], float]
C = TypeVar("C", bound="CustomMetric")
_registered: dict[str, Function] = {}


@dataclass(frozen=True)
class CustomMetric(Metric):
    """A metric whose score is the result of a user-defined function. A higher score must mean a better network.

    The function is called with two arguments: the predictions and the labels. The subclass for a kind of task also
    derives from the kind's own metric, which converts logits to predictions and defines all other methods.
    """

    function: Function = field(kw_only=True)

    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """Return the function's result. Raises `DataError` if the function fails or does not return a finite number."""
        metric = self.calibrated(logits, labels)
        try:
            result = self.function(metric.predictions(logits, labels), labels)
            number = float(result)
        except Exception as problem:  # a user's function may raise anything
            reason = f": {first_line(problem)}" if str(problem) else ""
            raise DataError(
                f"task.metric: {self.name} fails on {len(labels)} predictions: {type(problem).__name__}{reason}; "
                "correct the function"
            ) from problem
        if not math.isfinite(number):
            raise DataError(
                f"task.metric: {self.name} must return a finite number, but returned {shown(result)}; correct the "
                "function"
            )
        return number

    def bootstrap_scores(self, logits: np.ndarray, labels: np.ndarray, draws: Iterable[np.ndarray]) -> list[float]:
        """Return the score of each bootstrap sample for which the function is defined.

        A function may be undefined for a sample that happens to lack a class, although it is defined for the whole set.
        Raises the error of `score` if fewer than two samples are left.
        """
        scores: list[float] = []
        problem: DataError | None = None
        for rows in draws:
            try:
                scores.append(self.score(logits[rows], labels[rows]))
            except DataError as error:
                problem = error
        if problem and len(scores) < 2:
            raise problem
        return scores


def custom_metric(name: str, kind: type[C], **settings: Any) -> C:
    """Return the metric for the function called `name`, with further settings of the class `kind`.

    Raises `ValueError` with a remedy if the function is not found.
    """
    label = name.partition(":")[2].partition("#")[0]
    return kind(name, label, function=_find_function(name), **settings)


def register(function: Function) -> str:
    """Return the name by which a study can refer to a function.

    If the function does not belong to an installed package, it is registered for this process. Its name then contains a
    digest of its code, so that the name changes whenever the code changes. Raises `ValueError` if `function` is not a
    function that was defined with `def`.
    """
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or not function.__name__.isidentifier():
        raise ValueError(
            f"metric: must be a name, or a function that is defined with def, but got {shown(function)}; wrap it in "
            "such a function"
        )
    module, name = str(function.__module__), function.__name__
    if _is_installed(module) and getattr(importlib.import_module(module), name, None) is function:
        return f"{module}:{name}"
    digest = hashlib.sha256(repr(tuple(_code_parts(code))).encode()).hexdigest()[:8]
    registered_name = f"{module}:{name}#{digest}"
    _registered[registered_name] = function
    return registered_name


def _code_parts(code: CodeType) -> Iterable[object]:
    """Yield the parts of a function's code that define its computation. File name and line numbers are left out."""
    yield code.co_code
    yield from code.co_names
    for constant in code.co_consts:
        yield from _code_parts(constant) if isinstance(constant, CodeType) else [constant]


def _find_function(name: str) -> Function:
    """Return the registered or importable function called `name`.

    Raises the same errors as `custom_metric`.
    """
    if name in _registered:
        return _registered[name]
    module, _, function = name.partition(":")
    if "#" in function:
        raise ValueError(
            f"metric: {name!r} is a function of the Python program that created the study and is unknown elsewhere; "
            "continue in that program (nas.run_of), or put the function into an installed package and name it as "
            "module:function"
        )
    if not _is_installed(module):
        raise ValueError(
            f"metric: {name!r}: {module!r} is not a module of an installed package, but a study may only run the code "
            "of installed packages; install its package, or pass the function to nas.run_of"
        )
    try:
        candidate: Function | None = getattr(importlib.import_module(module), function, None)
    except ImportError as problem:
        raise ValueError(f"metric: {name!r}: {problem}; name an existing function as module:function") from None
    if not callable(candidate):
        raise ValueError(
            f"metric: {name!r}: the module has no function {function!r}; name an existing function as module:function"
        )
    return candidate


def _is_installed(module: str) -> bool:
    """Whether a module is in a folder of installed packages. Does not import the module."""
    try:
        spec = find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return False
    folders = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")]
    if spec is None:
        return False
    roots = [Path(root).resolve() for root in (*(spec.submodule_search_locations or ()), spec.origin) if root]
    return bool(roots) and all(any(root.is_relative_to(folder) for folder in folders) for root in roots)
