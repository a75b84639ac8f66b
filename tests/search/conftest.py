"""Fixtures for the tests of the search."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ports import free_port
from searching import write_search

from nas.architecture import Architecture
from nas.latency.record import LatencyRecord
from nas.search import selection


@pytest.fixture
def search_folder(tmp_path: Path) -> Path:
    return write_search(tmp_path)


@pytest.fixture
def copied_study(searched_study: Path, tmp_path: Path) -> Path:
    """A copy of a searched tiny study. Tests may change it."""
    return shutil.copytree(searched_study.parent, tmp_path / "tiny") / searched_study.name


LatencyMs = Callable[[Architecture], float]


@pytest.fixture
def fake_measurement(monkeypatch: pytest.MonkeyPatch) -> Callable[[LatencyMs], list[list[Architecture]]]:
    """Replace the measurement of networks by a function, which returns the latency of an architecture in milliseconds.

    The returned latency includes the 4 % by which measurements must stay below their limits. The teacher takes 3.2 ms,
    as in its profile. `Measurement.extract` must return the architecture itself. The result is a list of the measured
    groups, which grows with each measurement.
    """

    def install(latency_ms: LatencyMs) -> list[list[Architecture]]:
        groups: list[list[Architecture]] = []

        def measure(device, models, *_):
            _, *names = models
            groups.append([models[name] for name in names])
            taken = {name: latency_ms(models[name]) / 1.04 for name in names} | {"teacher": 3.2}
            return {name: LatencyRecord((value,) * 4, device, {}, "now") for name, value in taken.items()}

        monkeypatch.setattr(selection, "measure_with_exits", measure)
        return groups

    return install


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server that the tests start. It has a password. Skips if PostgreSQL is not installed."""
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
    """The URL of a MariaDB server that the tests start. It speaks MySQL's protocol. Skips if it is not installed."""
    if not (shutil.which("mariadbd") and shutil.which("mariadb-install-db")):
        pytest.skip("no MariaDB server is installed (apt-get install mariadb-server)")
    pytest.importorskip("pymysql")
    folder = Path(tempfile.mkdtemp(prefix="nas-mysql-"))
    owner = pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() else "nobody"  # it refuses to run as root, too
    shutil.chown(folder, owner)
    settings = ["--no-defaults", f"--user={owner}", f"--datadir={folder / 'data'}"]
    install = ["mariadb-install-db", *settings, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(install, cwd=folder, check=True, capture_output=True)
    account = "CREATE USER nas@127.0.0.1 IDENTIFIED BY 'not/a secret';\nGRANT ALL ON *.* TO nas@127.0.0.1;"
    (folder / "account.sql").write_text(account)
    port = free_port()
    options = [f"--init-file={folder / 'account.sql'}", f"--socket={folder / 'socket'}", f"--port={port}"]
    server = subprocess.Popen(
        ["mariadbd", *settings, *options, "--bind-address=127.0.0.1", "--skip-name-resolve"],
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
    """The file name or URL of an empty storage. The test is parametrised with its kind."""
    if request.param in ("postgresql", "mysql"):
        return _new_database(request.getfixturevalue(request.param))
    return {"journal": "journal.log", "sqlite": f"sqlite:///{tmp_path}/search.db"}[request.param]


def _new_database(server: str) -> str:
    """Create a database on a server, and return its URL."""
    import sqlalchemy

    name = f"test_{time.monotonic_ns()}"
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.rpartition("/")[0] + f"/{name}"
