"""The search space of a study and the settings of its search."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from nas.compression import REGISTRY, compression
from nas.files import Flag, Positive, PositiveReal, Real, Settings, Whole


class SpaceSettings(Settings):
    """The search space of a study, and the compression methods that the study excludes from it."""

    name: str
    """The name of a shipped search space, or the path of a TOML file."""
    exclude_compression: tuple[str, ...] = ()
    """The compression methods to exclude. A name without a parameter, such as `low_rank`, excludes the method with
    every parameter. A name with a parameter, such as `low_rank(8)`, excludes the method only with this parameter."""

    @field_validator("exclude_compression")
    @classmethod
    def _names_are_valid(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        method_names = [name for name in REGISTRY if name != "none"]
        for name in names:
            if name in method_names:
                continue
            if name == "none":
                raise ValueError(
                    f"{name!r} cannot be excluded; use names of compression methods: {', '.join(method_names)}"
                )
            compression(name)
        return names


class Search(Settings):
    """Settings of the architecture search."""

    sampler: Literal["guided", "nsga2", "tpe", "random"] = "guided"
    evaluations: Positive = 200
    """The number of candidates whose accuracy is measured before the search ends. Candidates that are predicted to miss
    every budget are skipped and do not count."""
    population: Annotated[int, Field(ge=4, strict=True)] = 32
    executor: Literal["inline", "ray"] = "inline"
    workers: Positive = 1
    """The number of Ray actors that evaluate candidates. If the cluster has too few free resources for all of them, the
    others start as soon as resources become free."""
    worker_cpus: PositiveReal = 1.0
    """The number of processors per worker. It is also the number of threads per worker."""
    worker_gpus: Real = 0.0
    """The number of GPUs per worker. It may be a fraction."""
    examples: Positive | None = None
    """The number of texts of the search set on which candidates are evaluated. The default is all texts."""
    least_tokens: Whole = 0
    """The smallest number of tokens that a text of the search set must have. Shorter texts are ignored. This is useful
    if many rows are only parts of the texts that will be served."""
    bf16: Flag = True
    """Whether to evaluate candidates in bf16 if the processor supports it natively. Exports are always evaluated in
    full precision."""
    knapsack: Flag = False
    """Whether the search starts from the networks that a knapsack solver predicts to be best. The solver needs the
    accuracy of every network that differs from the largest network in only one setting. For six layers, these are about
    two hundred networks."""
    storage: SecretStr | None = None
    """The URL of the database in which Optuna stores the trials of the search. By default, Optuna stores them in a
    journal file in the run's folder. The URL is never saved to a file, because it may contain a password."""

    @field_validator("storage")
    @classmethod
    def _names_a_database(cls, url: SecretStr | None) -> SecretStr | None:
        if url and not _is_database(url.get_secret_value()):
            raise ValueError(
                "must be the URL of an SQLite, PostgreSQL or MySQL database, such as sqlite:///search.db or "
                "postgresql+psycopg://user@host/name"
            )
        return url

    @model_validator(mode="after")
    def _workers_have_an_executor(self) -> Search:
        if self.executor == "inline" and self.workers != 1:
            raise ValueError(
                f"workers: the inline executor has only one worker, but got {self.workers}; remove workers, or set "
                "executor = 'ray'"
            )
        if self.executor == "inline" and (self.worker_cpus, self.worker_gpus) != (1.0, 0.0):
            key = "worker_cpus" if self.worker_cpus != 1.0 else "worker_gpus"
            raise ValueError(
                f"{key}: must not be set for the inline executor, which uses the resources of this process, but got "
                f"{getattr(self, key):g}; remove {key}, or set executor = 'ray'"
            )
        for key in ("worker_cpus", "worker_gpus"):
            value = getattr(self, key)
            if value > 1.0 and value % 1.0:
                raise ValueError(f"{key}: must be at most 1 or a whole number, but got {value:g}; round it")
        return self


def _is_database(url: str) -> bool:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        return False
    is_supported = parts.drivername.partition("+")[0] in {"sqlite", "postgresql", "mysql", "mariadb"}
    return is_supported and parts.database not in (None, "", ":memory:")
