"""Reads CSV and JSON Lines files literally: types are not guessed, and no string such as "NA" is treated as missing.

All cells of a CSV file are strings. Values in JSON keep their types.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyarrow

from nas.errors import DataError, counted, first_line, shown, visible_form

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""The encoding for each byte order mark at the start of a file. UTF-32 comes first, because one of its marks begins
with a mark of UTF-16."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_JSON_KINDS = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}


def require_columns(source: str, names: Sequence[str], columns: Iterable[str]) -> None:
    """Raise `DataError` unless each of the `columns` occurs exactly once among the `names`."""
    for column in columns:
        if names.count(column) > 1:
            raise DataError(f"{source}: {names.count(column)} columns are named {column!r}; rename all but one")
        if column not in names:
            shown = [_readable(name, column) for name in names]
            separator = next((mark for mark in _SEPARATORS if len(names) == 1 and mark in names[0]), None)
            hint = f" (cells seem to be separated by {_SEPARATORS[separator]}; use commas)" if separator else ""
            raise DataError(f"{source}: no column {column!r}; use one of {', '.join(shown)}{hint}")


def _readable(name: str, column: str) -> str:
    """Return the name of a column for the message that there is no column `column`.

    The name is in quotes if it contains invisible characters, and has escapes if it looks like `column`.
    """
    if visible_form(name) == visible_form(column):
        return ascii(name)
    return name if name and name == name.strip() and name.isprintable() else repr(name)


def read_csv(path: Path, columns: Sequence[str]) -> pyarrow.Table:
    """Return the columns of a CSV file, with all cells as strings. If `columns` are named, return only these.

    Columns that have the same name are left out. Raises `DataError` if a row has more or fewer cells than the header.
    """
    rows = _csv_rows(path)
    names = [name or f"Unnamed: {number}" for number, name in enumerate(next(rows, (0, list[str]()))[1])]
    if not names:
        raise DataError(f"{path}: is empty; give a file with a header and rows")
    require_columns(str(path), names, columns)
    kept_columns = [
        number for number, name in enumerate(names) if names.count(name) == 1 and (name in columns or not columns)
    ]
    cells: list[list[str]] = [[] for _ in kept_columns]
    for count, (line, row) in enumerate(rows):
        if len(row) != len(names):
            raise DataError(
                f"{path}: line {line}: row {count} (counted from 0) has {counted(len(row), 'cell')}, but the header "
                f"names {counted(len(names), 'column')}; put texts with commas in quotes, or complete the row"
            )
        for number, column in zip(kept_columns, cells, strict=True):
            column.append(row[number])
    arrays = [pyarrow.array(column, pyarrow.string()) for column in cells]
    return pyarrow.table(arrays, names=[names[number] for number in kept_columns])


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, together with the number of the line at which it begins."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with _open_text(path, newline="") as stream:
            reader = csv.reader(stream, strict=True)
            while True:
                line = reader.line_num + 1
                try:
                    row = next(reader, None)
                except csv.Error as problem:
                    raise DataError(
                        f"{path}: line {line}: the row that begins here is not valid CSV ({problem}); put texts with "
                        "commas, quotes or line breaks in quotes, and double the quotes inside such texts"
                    ) from None
                if row is None:
                    return
                if row:
                    yield line, row
    finally:
        csv.field_size_limit(limit)


def read_json(path: Path, columns: Sequence[str]) -> pyarrow.Table:
    """Return the columns of a file with one JSON object per line, or with one JSON array of objects.

    If `columns` are named, return only these. If an object lacks a key, the value is treated as missing. Raises
    `DataError` if a line or element is not a JSON object, or if a named column mixes types of values. If no columns are
    named, a column with mixed types is returned as JSON strings.
    """
    values_by_column: dict[str, list[Any]] = {name: [] for name in columns}
    names: dict[str, None] = {}
    count = 0
    for location, row, escaped in _objects(path):
        names |= dict.fromkeys(row)
        kept_values = {name: row.get(name) for name in columns} if columns else row
        if escaped and not _can_be_encoded(kept_values):
            raise DataError(
                f"{path}: {location}: holds half of a surrogate pair (\\ud800 to \\udfff), which is not a Unicode "
                "character; write both halves of the pair, or remove this half"
            )
        for name, value in kept_values.items():
            values_by_column.setdefault(name, [None] * count).append(value)
        count += 1
        for values in values_by_column.values():
            values.extend([None] * (count - len(values)))
    if count:
        require_columns(str(path), list(names), columns)
    arrays = {
        name: _arrow_array(f"{path}: column {name!r}", values, name in columns)
        for name, values in values_by_column.items()
    }
    return pyarrow.table(arrays)


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield three values per object: its location, the object, and whether its JSON has an escaped surrogate."""
    with _open_text(path) as stream:
        has_begun = False
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            if not has_begun and line.lstrip().startswith("["):
                yield from _array_elements(path, f"line {number}", line + stream.read())
                return
            has_begun = True
            location = f"line {number}"
            yield (
                location,
                _require_object(_parse_json(path, location, line), path, location),
                bool(_SURROGATE.search(line)),
            )


def _array_elements(path: Path, location: str, text: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    escaped = bool(_SURROGATE.search(text))
    for number, value in enumerate(_parse_json(path, location, text)):
        location = f"element {number} of the array (counted from 0)"
        yield location, _require_object(value, path, location), escaped


def _parse_json(path: Path, location: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_with_distinct_keys)
    except (ValueError, RecursionError) as problem:
        raise DataError(
            f"{path}: {location}: is not valid JSON ({first_line(problem)}); write one object per line, such as "
            '{"text": "...", "label": ...}'
        ) from None


def _with_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return record


def _require_object(value: Any, path: Path, location: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: {location}: must be a JSON object with columns as keys, but is {json.dumps(value)[:40]}; "
            "write each row as such an object"
        )
    return value


def _can_be_encoded(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _arrow_array(column: str, values: list[Any], needed: bool) -> pyarrow.Array:
    """Return the values of a column as an Arrow array. `needed` is true if the caller has named the column."""
    first_row_by_kind: dict[str, int] = {}
    for number, value in enumerate(values):
        if value is not None:
            first_row_by_kind.setdefault(_JSON_KINDS.get(type(value), "a list or a record"), number)
    if len(first_row_by_kind) > 1 and needed:
        (kind, number), (other_kind, other_number) = list(first_row_by_kind.items())[:2]
        raise DataError(
            f"{column}: row {number} (counted from 0) holds {kind}, {shown(values[number])}, but row {other_number} "
            f"holds {other_kind}, {shown(values[other_number])}; use one type of value in all rows"
        )
    if len(first_row_by_kind) <= 1:
        try:
            if any(isinstance(value, float) for value in values):
                # Arrow itself refuses whole numbers that float64 cannot represent exactly.
                numbers = [None if value is None else float(value) for value in values]
                return pyarrow.array(numbers, pyarrow.float64())
            return pyarrow.array(values)
        except OverflowError:  # whole numbers that do not fit into 64 bits, or into float64 if others are not whole
            return pyarrow.array([None if value is None else str(value) for value in values], pyarrow.string())
        except pyarrow.ArrowException:  # lists or records of different structures
            if needed:
                raise _structure_error(column, values) from None
    texts = [None if value is None else json.dumps(value) for value in values]
    return pyarrow.array(texts, pyarrow.string())


def _structure_error(column: str, values: list[Any]) -> DataError:
    """Return an error that names the first row whose list or record differs in structure from an earlier row."""
    low, high = 0, len(values)  # the first `low` rows fit together, the first `high` rows do not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pyarrow.array(values[:middle])
        except pyarrow.ArrowException:
            high = middle
        else:
            low = middle
    return DataError(
        f"{column}: lists and records must hold the same types of values in all rows, but row {low} (counted from 0) "
        f"holds {shown(values[low])}; use one type of value"
    )


@contextmanager
def _open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a file as text, in the encoding that its byte order mark indicates, or in UTF-8 if it has no such mark.

    Raises `DataError` if the bytes cannot be decoded.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and len(start) == 4 and b"\0\0" in (start[::2], start[1::2]):
        raise DataError(f"{path}: line 1: is not UTF-8 text but seems to be UTF-16; save the file as UTF-8")
    try:
        with path.open(encoding=encoding, newline=newline) as text:
            yield text
    except UnicodeDecodeError:
        raise _decoding_error(path, encoding.removesuffix("-sig")) from None


def _decoding_error(path: Path, encoding: str) -> DataError:
    content = path.read_bytes()
    position = len(content)
    try:
        content.decode(encoding)
    except UnicodeDecodeError as problem:
        position = problem.start
    before = content[:position].decode(encoding, errors="ignore")
    line = 1 + before.replace("\r\n", "\n").replace("\r", "\n").count("\n")
    byte_in_words = f" (byte 0x{content[position]:02x})" if position < len(content) else ""
    return DataError(
        f"{path}: line {line}: is not {encoding.upper()} text{byte_in_words}; save the file as UTF-8 (if it is "
        "Latin-1, for example, with iconv -f LATIN1 -t UTF-8)"
    )
