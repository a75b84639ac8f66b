"""Reads data sets on the hub: finds their configurations and splits, and reads the rows of a split.

The datasets library decides which files belong to which configuration and split. For this purpose, it gets an outline
of the repository: a folder with the same file paths, in which only the files that describe the data set have content.
Only the files of the splits that a study names are downloaded. No code from a data set is ever run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    Features,
    ReadInstruction,
    concatenate_datasets,
    get_dataset_config_names,
    get_dataset_default_config_name,
    load_dataset,
    load_dataset_builder,
)

from nas.errors import DataError, first_line
from nas.hub.snapshots import CARD, Snapshot

_DESCRIPTIONS = (CARD, ".huggingface.yaml", "dataset_infos.json")
_TABLE_BUILDERS = ("parquet", "csv", "json", "arrow", "text")
"""Builders of the datasets library that read files of rows and run no code from the data set."""
_IGNORED_SETTINGS = {"name", "version", "data_dir", "data_files", "description", "features"}
"""Settings of a builder that do not affect how a file is read."""


@dataclass(frozen=True)
class Split:
    """The files that hold the rows of a split, and the settings for reading them."""

    snapshot: Snapshot
    files: tuple[str, ...]
    kind: str
    options: Mapping[str, Any]
    """Settings that the data set specifies for reading its files, such as the separator in CSV files."""
    features: Features | None

    def rows(self, read: Callable[[Path], Dataset], suffixes: tuple[str, ...]) -> Dataset:
        """Download the files of the split, and return all rows.

        `read` reads a single local file whose suffix is one of `suffixes`. If a file has a different suffix, or if the
        split has `options`, the datasets library reads all files instead. Raises `DataError` if the files cannot be
        read.
        """
        folder = self.snapshot.download(self.files)
        paths = [folder / file for file in self.files]
        try:
            dataset = self._read_all(paths, read, suffixes)
            for column, feature in (self.features or {}).items():
                if isinstance(feature, ClassLabel) and column in dataset.column_names:
                    dataset = dataset.cast_column(column, feature)
        except DataError:
            raise
        except Exception as problem:  # the datasets library raises plain exceptions for unreadable files
            raise DataError(
                f"task.hub: {self.snapshot}: {self.files[0]}{' and others' if len(paths) > 1 else ''} cannot be read "
                f"as rows with the same columns: {first_line(problem).rstrip('.')}; give a different data set, or "
                "save its splits as files and give those"
            ) from None
        return dataset

    def _read_all(self, paths: list[Path], read: Callable[[Path], Dataset], suffixes: tuple[str, ...]) -> Dataset:
        if not self.options and all(path.suffix.lower() in suffixes for path in paths):
            return concatenate_datasets([read(path) for path in paths])
        names = [str(path) for path in paths]
        with TemporaryDirectory() as cache:
            settings = {"split": "train", "cache_dir": cache, "keep_in_memory": True}
            return load_dataset(self.kind, data_files=names, **settings, **self.options)


def splits(snapshot: Snapshot, config: str | None) -> dict[str, Split]:
    """Return the splits of a data set, keyed by split name.

    `config` names a configuration of the data set. If it is None, the default configuration is used. Raises `DataError`
    if there is no such configuration or no default, or if the data set does not consist of files with rows.
    """
    files = snapshot.files()
    repository = snapshot.name.rpartition("/")[2]
    if f"{repository}.py" in files:
        raise DataError(
            f"task.hub: {snapshot}: needs its loading script {repository}.py, but nas runs no code from a data set; "
            "give a data set of Parquet, CSV or JSONL files, or save its splits as files and give those"
        )
    descriptions = snapshot.download([file for file in files if file in _DESCRIPTIONS])
    with TemporaryDirectory() as parent:
        outline = Path(parent).resolve() / repository
        _create_outline(outline, files, descriptions)
        try:
            return _splits_in(snapshot, outline, config)
        except DataError:
            raise
        except Exception as problem:  # the datasets library raises plain exceptions for unknown layouts
            reason = first_line(problem).replace(f"{outline}/", "").replace(str(outline), snapshot.name).rstrip(".")
            raise DataError(
                f"task.hub: {snapshot}: its files are not a data set: {reason}; give a data set of Parquet, CSV or "
                "JSONL files"
            ) from None


def read_split(
    snapshot: Snapshot, config: str | None, split: str, read: Callable[[Path], Dataset], suffixes: tuple[str, ...]
) -> Dataset:
    """Return the rows of `split`, which is the name of a split or an expression such as `train[:1000]+validation`.

    See `Split.rows` for `read` and `suffixes`. Raises `DataError` if a split does not exist or cannot be read.
    """
    splits_by_name, rows = splits(snapshot, config), {}
    for name in split_names_in(split):
        check_split(snapshot, splits_by_name, name)
        rows[name] = splits_by_name[name].rows(read, suffixes)
    if list(rows) == [split]:
        return rows[split]
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: len(part) for name, part in rows.items()})
    except (ValueError, AssertionError) as problem:
        raise DataError(f"{split}: is not a valid part of a split: {problem}; use the form train[:1000]") from None
    return concatenate_datasets([rows[part.splitname].select(range(part.from_, part.to)) for part in parts])


def split_names_in(split: str) -> list[str]:
    """Return the names of the splits in an expression.

    For example, the names in `train[:1000]+validation` are `train` and `validation`.
    """
    return list(dict.fromkeys(part.partition("[")[0].strip() for part in split.split("+")))


def check_split(snapshot: Snapshot, splits_by_name: Mapping[str, Split], name: str) -> None:
    """Raise `DataError` if `splits_by_name`, the splits of the data set, has no split `name`."""
    if name not in splits_by_name:
        raise DataError(f"{snapshot}: has no split {name!r}; use one of {', '.join(splits_by_name)}")


def _create_outline(outline: Path, files: list[str], descriptions: Path) -> None:
    """Create the folder `outline` with the file paths of the repository.

    The files that describe the data set are copied from the folder `descriptions`. All other files are empty.
    """
    for file in files:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts:
            continue
        target = outline / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if file in _DESCRIPTIONS:
            shutil.copyfile(descriptions / file, target)
        else:
            target.touch()


def _splits_in(snapshot: Snapshot, outline: Path, config: str | None) -> dict[str, Split]:
    """Return the splits that the datasets library finds in an outline; see `splits` for the errors."""
    configs = get_dataset_config_names(str(outline))
    if config is None and get_dataset_default_config_name(str(outline)) is None:
        raise DataError(f"task.config: {snapshot} has several configurations; set one of {', '.join(configs)}")
    if config is not None and config not in configs:
        remedy = (
            f"use one of {', '.join(configs)}"
            if configs != ["default"]
            else "remove it, because the data set has only one configuration"
        )
        raise DataError(f"task.config: {snapshot} has no configuration {config!r}; {remedy}")
    with TemporaryDirectory() as cache:
        builder = load_dataset_builder(str(outline), config, cache_dir=cache)
    if builder.name not in _TABLE_BUILDERS:
        raise DataError(
            f"task.hub: {snapshot}: does not consist of tables (the datasets library reads it as {builder.name!r}); "
            "give a data set of Parquet, CSV or JSONL files"
        )
    defaults = type(builder.config)()
    options = {
        field.name: value
        for field in fields(builder.config)
        if field.name not in _IGNORED_SETTINGS
        and (value := getattr(builder.config, field.name)) != getattr(defaults, field.name)
    }
    return {
        str(split): Split(
            snapshot, _relative_paths(snapshot, outline, paths), builder.name, options, builder.info.features
        )
        for split, paths in (builder.config.data_files or {}).items()
    }


def _relative_paths(snapshot: Snapshot, outline: Path, paths: list[str]) -> tuple[str, ...]:
    """Convert paths in the outline to paths relative to the repository.

    Raises `DataError` if a path is outside of the repository.
    """
    outside = next((path for path in paths if not Path(path).is_relative_to(outline)), None)
    if outside is not None:
        raise DataError(
            f"task.hub: {snapshot}: its {CARD} names {outside}, which is not a file of the data set; give another "
            "data set"
        )
    return tuple(Path(path).relative_to(outline).as_posix() for path in paths)
