"""Connections to the database of a search, and messages about databases, without passwords."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from nas.errors import SearchError

_TRIES, _RETRY_DELAY_S = 5, 0.2


@contextmanager
def translated_errors(where: Path | str) -> Iterator[None]:
    """Convert errors of a database, or of its Python package, into a `SearchError`.

    The message is a single line without passwords.
    """
    try:
        yield
    except ImportError as problem:
        package = getattr(problem.__cause__, "name", None) or problem.name
        extra = {"psycopg": "postgresql", "pymysql": "mysql"}.get(package or "")
        remedy = f"run pip install 'compact-bert-nas[{extra}]'" if extra else "install it"
        raise SearchError(
            f"search.storage: {printable(where)} needs the package {package}, which is not installed; {remedy}"
        ) from None
    except (SQLAlchemyError, StorageInternalError) as problem:
        reason = problem if isinstance(problem, SQLAlchemyError) else problem.__cause__
        message = str(getattr(reason, "orig", None) or reason).strip().partition("\n")[0]
        raise SearchError(
            f"search.storage: {printable(where)} cannot be used: {_without_password(message, where)}; correct the "
            "URL, or make sure that the server is running"
        ) from None


def check_database(url: str) -> None:
    """Raise `SearchError` if the Python package for a database is missing, or if the database cannot be opened."""
    file = file_path(url)
    if file and not file.exists() and os.access(file.parent, os.W_OK):
        return  # connecting would create the file
    with translated_errors(url):
        engine = sqlalchemy.create_engine(url)
        engine.connect().close()
        engine.dispose()


def database(url: str, folder: Path) -> str:
    """Return `url`, with the path of an SQLite file resolved relative to `folder`.

    URLs of other databases are returned unchanged.
    """
    parts = sqlalchemy.make_url(url)
    if parts.get_backend_name() != "sqlite":
        return url
    return parts.set(database=str(folder / (parts.database or ""))).render_as_string(hide_password=False)


def _open_database(url: str) -> RDBStorage:
    """Connect to a database, and create Optuna's tables if there are none.

    If several drivers start at once, creating a table may fail in all but one of them. The other drivers try again.
    """
    for _ in range(_TRIES):
        try:
            return RDBStorage(url)
        except (IntegrityError, OperationalError, ProgrammingError) as problem:
            if not isinstance(problem, IntegrityError) and "already exists" not in str(problem.orig):
                raise
            time.sleep(_RETRY_DELAY_S)
    return RDBStorage(url)


def connect(url: str) -> BaseStorage:
    """Connect to a database and return it as a storage of Optuna.

    Raises `SearchError` if another version of Optuna created the database.
    """
    try:
        return get_storage(_open_database(url))
    except RuntimeError:
        raise SearchError(
            f"search.storage: {printable(url)} was created by a different version of Optuna; use a different "
            "database, or upgrade this one with `optuna storage upgrade --storage URL`"
        ) from None


def file_path(where: Path | str) -> Path | None:
    """Return the path of the journal file or SQLite database; None for a database on a server."""
    if isinstance(where, Path):
        return where
    parts = sqlalchemy.make_url(where)
    return Path(parts.database or "") if parts.get_backend_name() == "sqlite" else None


def printable(where: Path | str) -> str:
    """Return the location of a storage for messages: a path, or a URL without user, password and options."""
    if isinstance(where, Path):
        return str(where)
    parts = sqlalchemy.make_url(where)
    return sqlalchemy.URL.create(
        parts.drivername, host=parts.host, port=parts.port, database=parts.database
    ).render_as_string()


def _without_password(text: str, where: Path | str) -> str:
    parts = None if isinstance(where, Path) else sqlalchemy.make_url(where)
    secrets = [parts.password, *(value for key, value in parts.query.items() if "pass" in key)] if parts else []
    for secret in filter(None, secrets):
        text = text.replace(str(secret), "***")
    return text
