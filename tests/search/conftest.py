"""Fixtures of the search's tests."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import free_port
from searching import write_search


@pytest.fixture
def search_folder(tmp_path: Path) -> Path:
    return write_search(tmp_path)


@pytest.fixture
def copied_study(searched_study: Path, tmp_path: Path) -> Path:
    """A tiny study that is searched, to be spoilt."""
    return shutil.copytree(searched_study.parent, tmp_path / "tiny") / searched_study.name


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of the tests' own, with a password; skips where none is installed."""
    folders = [Path(path) for path in os.environ["PATH"].split(os.pathsep)]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    programs = next((folder for folder in folders if (folder / "initdb").exists()), None)
    if programs is None:
        pytest.skip("no PostgreSQL server is installed (apt-get install postgresql)")
    pytest.importorskip("psycopg")
    # The server refuses to run as root, and its user must be able to reach its folder.
    owner = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="nas-postgresql-"))
    (folder / "password").write_text("not/a secret")
    if owner:
        for path in (folder, folder / "password"):
            shutil.chown(path, owner)

    def control(program: str, *options: str) -> None:
        command = [programs / program, "-D", folder / "data", *options]
        subprocess.run(command, user=owner, cwd=folder, check=True, capture_output=True)

    control("initdb", "-U", "nas", "-A", "scram-sha-256", "--pwfile", "password", "--locale=C", "-E", "UTF8", "-N")
    port = free_port()
    control("pg_ctl", "-w", "-l", "log", "-o", f"-k {folder} -p {port} -F", "start")
    try:
        yield f"postgresql+psycopg://nas:not%2Fa secret@127.0.0.1:{port}/postgres"
    finally:
        control("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mysql() -> Iterator[str]:
    """The URL of a MariaDB server of the tests' own, which speaks MySQL's protocol; skips where none is installed."""
    if not (shutil.which("mariadbd") and shutil.which("mariadb-install-db")):
        pytest.skip("no MariaDB server is installed (apt-get install mariadb-server)")
    pytest.importorskip("pymysql")
    folder = Path(tempfile.mkdtemp(prefix="nas-mysql-"))
    owner = pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() else "nobody"  # root is refused, as by PostgreSQL
    shutil.chown(folder, owner)
    settings = ["--no-defaults", f"--user={owner}", f"--datadir={folder / 'data'}"]
    made = ["mariadb-install-db", *settings, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(made, cwd=folder, check=True, capture_output=True)
    account = "CREATE USER nas@127.0.0.1 IDENTIFIED BY 'not/a secret';\nGRANT ALL ON *.* TO nas@127.0.0.1;"
    (folder / "account.sql").write_text(account)
    port = free_port()
    own = [f"--init-file={folder / 'account.sql'}", f"--socket={folder / 'socket'}", f"--port={port}"]
    server = subprocess.Popen(
        ["mariadbd", *settings, *own, "--bind-address=127.0.0.1", "--skip-name-resolve"],
        stderr=(folder / "log").open("wb"),
    )
    try:
        deadline = time.monotonic() + 60
        while b"ready for connections" not in (folder / "log").read_bytes():
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"mysql+pymysql://nas:not%2Fa secret@127.0.0.1:{port}/mysql"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage of the kind that the test is parametrised with."""
    if request.param in ("postgresql", "mysql"):
        return _database(request.getfixturevalue(request.param))
    return {"journal": "journal.log", "sqlite": f"sqlite:///{tmp_path}/search.db"}[request.param]


def _database(server: str) -> str:
    """A database of its own on a server."""
    import sqlalchemy

    name = f"test_{time.monotonic_ns()}"
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.rpartition("/")[0] + f"/{name}"
