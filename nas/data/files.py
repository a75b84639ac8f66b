"""Reads the rows of data files and of data sets on the hub.

A path is always taken literally, never as a pattern or a URL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import Dataset, Features

from nas.data.text_files import read_csv, read_json, require_columns
from nas.errors import DataError, first_line, listed
from nas.files import write_atomically
from nas.hub import find, read_split
from nas.study import DATA_SUFFIXES


def read_rows(
    source: str,
    hub: str | None = None,
    config: str | None = None,
    columns: Sequence[str] = (),
    revision: str | None = None,
) -> Dataset:
    """Return the rows of a data file, or of a split of the hub data set `hub`.

    If `columns` are named, no other columns are read from a file. Raises `DataError` if the source cannot be read, if
    one of the columns is missing, or if one of the columns mixes types of values.
    """
    try:
        if hub:
            snapshot, _ = find("dataset", hub, revision)
            rows = read_split(snapshot, config, source, lambda path: _read_file(path, columns), tuple(_READERS))
        else:
            rows = _read_file(Path(source), columns)
    except DataError:
        raise
    except (ValueError, OSError) as problem:
        raise DataError(
            f"{source}: cannot be read as a data set: {first_line(problem)}; correct the data set in [task]"
        ) from None
    require_columns(source, rows.column_names, columns)
    return rows


def arrow_column(rows: Dataset, column: str) -> pyarrow.ChunkedArray:
    """Return a column as an Arrow array. The values of a `ClassLabel` column are class numbers."""
    return rows.select_columns([column]).with_format("arrow")[:].column(0)


def values_of(rows: Dataset, column: str) -> list[Any]:
    """Return the values of a column as plain Python values. The values of a `ClassLabel` column are class numbers."""
    values: list[Any] = arrow_column(rows, column).to_pylist()
    return values


def read_table(path: Path) -> Dataset:
    """Read rows from a Parquet file that `write_table` has written."""
    with path.open("rb") as stream:
        return Dataset(pyarrow.parquet.ParquetFile(stream).read())


def write_table(rows: Dataset, path: Path) -> None:
    """Write rows to a Parquet file, atomically."""
    table = rows.with_format("arrow")[:]
    write_atomically(path, lambda temporary: pyarrow.parquet.write_table(table, temporary))


_OTHER_FORMATS = {
    b"version https://git-lfs.github.com/": (
        "a Git LFS pointer instead of the data",
        "fetch the file with git lfs pull",
    ),
    b"PAR1": ("a Parquet file", "rename it to *.parquet"),
    b"\x1f\x8b": ("compressed with gzip", "decompress it with gunzip"),
    b"BZh": ("compressed with bzip2", "decompress it with bunzip2"),
    b"\xfd7zXZ\0": ("compressed with xz", "decompress it with unxz"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "decompress it with unzstd"),
    b"PK\x03\x04": ("a ZIP archive or an Excel file", "extract the data, or export the sheet as CSV"),
    b"\xd0\xcf\x11\xe0": ("an old Excel file", "export the sheet as CSV"),
    b"ARROW1": ("an Arrow file", "write it as Parquet"),
    b"SQLite format 3\0": ("an SQLite database", "export the table as CSV"),
}
"""The first bytes of files in formats that are often found under the suffix of another format. Each value says what the
file is, and what the user can do about it."""


def check_file(path: Path) -> None:
    """Raise `DataError` if a data file cannot be opened. The rows in the file are not checked."""
    if _reader_of(path) is _read_parquet:
        with _open_parquet(path):
            pass


def _reader_of(path: Path) -> Callable[[Path, Sequence[str]], pyarrow.Table]:
    if not path.is_file():
        raise DataError(f"{path}: no such data file; correct the path")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: a data file must end in {listed(DATA_SUFFIXES)}; convert the file")
    with path.open("rb") as stream:
        start = stream.read(max(map(len, _OTHER_FORMATS)))
    for first_bytes, (description, remedy) in _OTHER_FORMATS.items():
        if start.startswith(first_bytes) and not (reader is _read_parquet and first_bytes == b"PAR1"):
            raise DataError(f"{path}: is {description}, so it cannot be read as {path.suffix}; {remedy}")
    return reader


def _read_file(path: Path, columns: Sequence[str]) -> Dataset:
    table = _reader_of(path)(path, columns)
    # Other columns are left out if `datasets` does not support their types; they cannot be texts or labels.
    return Dataset(
        table.select([field.name for field in table.schema if field.name in columns or _is_supported(field)])
    )


@contextmanager
def _open_parquet(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    try:
        with path.open("rb") as stream:
            yield pyarrow.parquet.ParquetFile(stream)
    except pyarrow.ArrowException as problem:
        raise DataError(f"{path}: cannot be read as Parquet: {first_line(problem)}; write the file again") from None


def _read_parquet(path: Path, columns: Sequence[str]) -> pyarrow.Table:
    with _open_parquet(path) as file:
        names: list[str] = file.schema_arrow.names
        require_columns(str(path), names, columns)
        kept_columns = list(columns) or [name for name in names if names.count(name) == 1]
        table = file.read(columns=kept_columns).select(kept_columns)
    for number, field in enumerate(table.schema):
        values = _in_plain_types(table.column(number))
        if values.type != field.type:
            table = table.set_column(number, field.name, values)
        try:
            values.validate(full=True)
        except pyarrow.ArrowInvalid as problem:
            raise DataError(f"{path}: column {field.name!r}: {problem}; write the column as UTF-8") from None
    return _with_readable_features(table)


def _in_plain_types(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """Return a column with the plain types of `_plain_type`.

    Decimals become whole numbers. If this is not exact, they become texts if the column has no digits after the point,
    because identifiers may be that long, and floating-point numbers otherwise.
    """
    whole = _plain_type(values.type, lambda _: pyarrow.int64())
    if whole == values.type:
        return values
    try:
        return values.cast(whole)
    except pyarrow.ArrowInvalid:
        return values.cast(
            _plain_type(values.type, lambda decimals: pyarrow.float64() if decimals.scale > 0 else pyarrow.string())
        )


def _plain_type(kind: pyarrow.DataType, of_decimals: Callable[[pyarrow.DataType], pyarrow.DataType]) -> Any:
    """Return the type in which a column is read if another program has stored it in the type `kind`.

    Categories of pandas and views of texts become texts, also inside of lists. `of_decimals` is called with the type of
    decimals, and returns the type in which they are read. All other types stay the same.
    """
    types = pyarrow.types
    if types.is_dictionary(kind):
        return _plain_type(kind.value_type, of_decimals)
    if types.is_string_view(kind):
        return pyarrow.large_string()
    if types.is_decimal(kind):
        return of_decimals(kind)
    if types.is_fixed_size_list(kind):
        return pyarrow.list_(_plain_type(kind.value_type, of_decimals), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        make_list = pyarrow.list_ if types.is_list(kind) else pyarrow.large_list
        return make_list(_plain_type(kind.value_type, of_decimals))
    return kind


def _with_readable_features(table: pyarrow.Table) -> pyarrow.Table:
    """Return the table without the descriptions of columns that the installed version of `datasets` cannot read.

    `datasets` describes columns, such as those of `ClassLabel`s, in the metadata of a Parquet file. Newer versions
    write types that older versions do not know. A column without a description has the type that Parquet gives it.
    """
    metadata = dict(table.schema.metadata or {})
    try:
        features = json.loads(metadata.pop(_FEATURES_KEY))["info"]["features"]
        readable = {name: value for name, value in features.items() if _is_readable(table, name, value)}
    except (KeyError, ValueError, TypeError, AttributeError):  # there is no description, or it is malformed
        return table.replace_schema_metadata(metadata)
    description = json.dumps({"info": {"features": readable}}).encode()
    return table.replace_schema_metadata(metadata | {_FEATURES_KEY: description})


def _is_readable(table: pyarrow.Table, name: str, feature: Any) -> bool:
    """Whether `datasets` can read `feature`, the description of the column `name` of a table."""
    if name not in table.schema.names:
        return False
    try:
        return name in Features.from_dict({name: feature}).arrow_schema.names
    except Exception:  # a malformed description can raise exceptions of many types
        return False


def _is_supported(field: pyarrow.Field) -> bool:
    try:
        Features.from_arrow_schema(pyarrow.schema([field]))
    except (ValueError, NotImplementedError, TypeError):
        return False
    return True


_FEATURES_KEY = b"huggingface"
"""The key of the metadata of a Parquet file under which `datasets` describes the columns."""
_READERS = {".parquet": _read_parquet, ".csv": read_csv, ".jsonl": read_json}
