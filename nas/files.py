"""Reading and writing of small files.

`read_toml` and `validate` read settings from TOML files. Their error messages name the file, the key and the rule.
`toml_literal` turns a value into TOML. `write_atomically`, `write_folder` and `write_json` never leave a half-written
file behind. If a process is killed while it writes, the next call for the same path removes its temporary files.
`digest` and `file_digest` return short identifiers of values and files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from nas.errors import NasError, counted, shown
from nas.limits import working_on


class Settings(BaseModel):
    """Base class of settings that are read from TOML files. Instances are immutable. Unknown keys are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Whole = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[int, Field(ge=1, strict=True)]
Real = Annotated[float, Field(ge=0.0, strict=True, allow_inf_nan=False)]
PositiveReal = Annotated[float, Field(gt=0.0, strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]

_RULES = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be finite",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "literal_error": "must be {expected}",
}
"""Rules for messages, keyed by the type of pydantic's error."""

S = TypeVar("S", bound=Settings)
C = TypeVar("C")


def read_toml(path: Path, error: type[NasError]) -> dict[str, Any]:
    """Return the contents of a TOML file, which may begin with a byte order mark.

    Raises `error` if the file is missing, is not valid TOML, or contains a NUL character, which is invalid in paths.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise error(f"{path}: no such file; give the path of an existing TOML file") from None
    except IsADirectoryError:
        raise error(f"{path}: is a folder; give the path of a TOML file") from None
    except UnicodeDecodeError:
        raise error(f"{path}: is not UTF-8 text; save the file as UTF-8, or give another file") from None
    except ValueError as problem:  # TOMLDecodeError, or an integer with thousands of digits
        raise error(f"{path}: not valid TOML: {problem}; correct the file at that position") from None
    if any("\0" in text for text in _strings_in(values)):
        raise error(f"{path}: strings must not contain the character \\u0000; remove it")
    return values


def _strings_in(value: Any) -> Iterator[str]:
    """Yield all keys and all string values of parsed TOML, including nested ones."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *_strings_in(item))
    elif isinstance(value, list):
        for item in value:
            yield from _strings_in(item)


def validate(model: type[S], values: Mapping[str, Any], path: Path, error: type[NasError]) -> S:
    """Return `values`, which were read from `path`, as an instance of `model`.

    Raises `error` if a value is invalid. The one-line message names the file, the key and the rule.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as problem:
        raise error(f"{path}: {_validation_message(problem, model, values)}") from None


def _validation_message(problem: ValidationError, model: type[BaseModel], values: Mapping[str, Any]) -> str:
    errors = problem.errors(include_url=False)
    location, kind, value = errors[0]["loc"], errors[0]["type"], errors[0]["input"]
    written = _as_written(location, values, kind == "missing")
    key = ".".join(map(str, written))
    fields = _settings_at(model, location[:-1]).model_fields
    if kind == "extra_forbidden":
        # A validator may have moved the settings of a table into a table inside it, as for budgets.
        valid = _settings_at(model, written[:-1]).model_fields | fields
        names = sorted(field.alias or name for name, field in valid.items() if field.annotation is not Path)
        return f"{key}: unknown key; remove it or use one of: {', '.join(names)}"
    if kind == "missing":
        return f"{key}: required key is missing; add it"
    if kind == "value_error":
        message = errors[0]["msg"].removeprefix("Value error, ")
        is_about_field = message.partition(":")[0].partition(".")[0] in _settings_at(model, location).model_fields
        return f"{key}{'.' if is_about_field else ': '}{message}" if key else message
    # If a setting may have values of several types, there is an error for each type.
    rules = [_rule(each) for each in errors if each["input"] is value and len(each["loc"]) == len(location)]
    others = (rule.removeprefix("must be ").removeprefix("must ") for rule in dict.fromkeys(rules[1:]))
    got = "" if _may_hold_secret(value, fields.get(str(location[-1]))) else f", but got {shown(value)}"
    return f"{key}: {' or '.join([rules[0], *others])}{got}"


def _may_hold_secret(value: Any, field: FieldInfo | None) -> bool:
    """Whether a value may contain a password.

    This is the case if its setting is declared as a secret or a table, or if the value is or contains a table.
    """
    if value == []:
        return False
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, dict | list) for item in items) or (
        field is not None and any(_subclass_in(field.annotation, kind) is not None for kind in (SecretStr, BaseModel))
    )


def _rule(error: ErrorDetails) -> str:
    """Return the rule that a value breaks, as a clause that begins with "must"."""
    limits = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in error.get("ctx", {}).items()}
    if error["type"] == "too_short":
        return f"must have at least {counted(int(limits['min_length']), 'item')}"
    if error["type"] == "too_long":
        return f"must have at most {counted(int(limits['max_length']), 'item')}"
    if error["type"] in _RULES:
        return _RULES[error["type"]].format(**limits)
    message = error["msg"].replace("Input should", "must")
    return message[:1].lower() + message[1:]


def _as_written(location: tuple[int | str, ...], values: Any, is_missing: bool) -> tuple[int | str, ...]:
    """Return the location of a validation error without the parts that are not in `values`, the user's settings.

    Such parts are pydantic's names for the types that a value may have, and tables that a validator has inserted. If
    `is_missing` is true, the last part is kept, because it is the name of the missing setting.
    """
    written: list[int | str] = []
    for part in location:
        if isinstance(values, BaseModel):
            values = dict(values)
        if isinstance(values, Mapping):
            names = [name for name in (part, str(part)) if name in values]
        else:
            names = [part] if isinstance(values, list | tuple) and part in range(len(values)) else []
        if names:
            written.append(part)
            values = values[names[0]]
    return (*written, location[-1]) if is_missing else tuple(written)


def _settings_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the settings class at `location`, the location of a validation error in `model`."""
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _subclass_in(model.model_fields[part].annotation, BaseModel) or model
    return model


def _subclass_in(annotation: Any, kind: type[C]) -> type[C] | None:
    """Return the first subclass of `kind` in a type annotation, or None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, kind):
        return annotation
    return next(filter(None, (_subclass_in(inner, kind) for inner in getattr(annotation, "__args__", ()))), None)


def toml_literal(value: Any) -> str:
    """Return a value as a TOML literal. Mappings become inline tables."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{toml_literal(key)} = {toml_literal(inner)}' for key, inner in value.items())} }}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(toml_literal, value))}]"
    return json.dumps(value.item() if hasattr(value, "item") else value, ensure_ascii=False, default=str)


def given_path(name: str) -> Path:
    """Return the path that the user has given as a `Path`.

    `~/data` is in the user's home directory, but `~draft.csv` is an ordinary file name.
    """
    path = Path(name)
    # Unlike Path.expanduser, the function of os.path does not fail if the user has no home directory.
    return Path(os.path.expanduser(path)) if path.parts[:1] == ("~",) else path  # noqa: PTH111


def canonical_json(value: Any) -> str:
    """Return a JSON string with sorted keys and no spaces, so that equal values yield equal strings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """Return a 16-digit hexadecimal identifier of a value: the start of the SHA-256 hash of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return a 16-digit hexadecimal identifier of a file's contents: the start of their SHA-256 hash.

    The result is cached. A file with the same inode, size and modification time is not read again.
    """
    status = path.stat()
    return _file_digest(path, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=4096)
def _file_digest(path: Path, stamp: tuple[int, ...]) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with the path of a temporary file, and then rename this file to `path`.

    No other process sees a partial file. Raises `MachineError` if a limit of the machine, such as the disk space,
    prevents this.
    """
    with working_on(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked_draft(path, _create_file) as temporary:
            write(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)


def write_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Call `fill` with the path of a temporary folder, and then rename this folder to `folder`.

    A previous `folder` is replaced. The new folder never appears half-written, and the previous one never half-deleted.
    Raises `MachineError` if a limit of the machine, such as the disk space, prevents this.
    """
    with working_on(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with draft_folder(folder) as temporary:
            draft = temporary / "new"
            draft.mkdir()
            fill(draft)
            draft.chmod(0o755)
            for path in draft.rglob("*"):  # safetensors makes its files readable by their owner only
                path.chmod(0o755 if path.is_dir() else 0o644)
            if folder.exists():
                folder.replace(temporary / "old")
            draft.replace(folder)


@contextmanager
def draft_folder(target: Path) -> Iterator[Path]:
    """Create a hidden folder next to `target`, and remove it at the end of the `with` block unless it was renamed.

    Hidden folders that killed processes have left behind are removed.
    """
    with _locked_draft(target, _create_folder) as draft:
        yield draft


def _create_file(prefix: str, folder: Path) -> tuple[int, str]:
    return tempfile.mkstemp(prefix=prefix, dir=folder)


def _create_folder(prefix: str, folder: Path) -> tuple[int, str]:
    while True:
        name = tempfile.mkdtemp(prefix=prefix, dir=folder)
        with suppress(FileNotFoundError):  # another process has removed the folder, because it was not locked yet
            return os.open(name, os.O_RDONLY), name


@contextmanager
def _locked_draft(target: Path, create: Callable[[str, Path], tuple[int, str]]) -> Iterator[Path]:
    """Yield the path of a draft of `target`: a hidden file or folder next to it, which `create` creates.

    The draft is locked during the `with` block, and removed at the end. `create` returns a descriptor and the path of
    the draft. The operating system releases the lock of a process that dies. Unlocked drafts of `target` therefore
    belong to dead processes, and are removed.
    """
    prefix = f".{target.name[:100]}.draft-"  # names are limited to 255 bytes, of which the random suffix needs a few
    for path in target.parent.iterdir():
        if path.name.startswith(prefix):
            _remove_unless_locked(path)
    while True:
        lock, name = create(prefix, target.parent)
        draft = Path(name)
        with suppress(OSError):  # some file systems have no locks, so drafts of dead processes remain there
            fcntl.flock(lock, fcntl.LOCK_SH)
        if draft.exists():
            break
        os.close(lock)  # another process has removed the draft before it was locked
    try:
        yield draft
    finally:
        _remove(draft)
        os.close(lock)


def _remove_unless_locked(draft: Path) -> None:
    with suppress(OSError):  # the draft is locked, belongs to another user, or was removed by another process
        lock = os.open(draft, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(draft)
        finally:
            os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented so that people can read it."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, error: type[NasError]) -> Any:
    """Return the contents of a JSON file. Raises `error` if the file is missing or is not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: no such file; run the step that writes it (`nas run` runs all steps)") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise error(
            f"{path}: not valid JSON; remove the file, then run the step that writes it (`nas run` runs all steps)"
        ) from None
