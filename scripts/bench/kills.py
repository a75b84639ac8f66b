"""Test that a search on a Ray cluster survives kill -9 of the driver, a worker or a node at random moments.

After each kill, the search must still end with the requested number of finished trials. No finished trial may be lost,
and no candidate may be evaluated twice. After the driver is killed, the same command is run again. After a node is
killed, a new node is added. The nodes are Ray nodes on this machine with one processor each. If the run's supernet or
profiles are missing, the benchmark first creates them.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import psutil
from ray.cluster_utils import Cluster
from rich.console import Console

from nas.cluster import connect, cpu_count
from nas.errors import NasError
from nas.pipeline import Run
from nas.pipeline.commands import evaluate_candidates, profile, train
from nas.pipeline.profiles import costs_of

KINDS = ("driver", "worker", "node")
_NODE = {"num_cpus": 1}
_LIMIT_S = 600.0
_FINISHED = b'"result"'
"""A string that occurs exactly once in a journal for each finished trial."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a search during which one process or node was killed."""

    kind: str
    seed: str
    finished_before: int
    """The number of trials that were finished at the time of the kill."""
    finished: int
    lost: int
    """The number of trials that were finished at the time of the kill but are missing from the storage at the end."""
    evaluated_twice: int

    def to_json(self) -> dict[str, Any]:
        """Return the outcome with the keys of the benchmark's JSON output."""
        values = asdict(self)
        return values | {"double": values.pop("evaluated_twice")}


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run searches with one kill each, print a table, and return the outcomes."""
    kills, seed, variables = arguments.kills, arguments.seed, arguments.variables
    common.journal_of(run)
    train(run)
    profile(run)
    outcomes = list[Outcome]()
    with TemporaryDirectory(prefix="nas-kills-") as folder, _cluster(arguments.nodes) as cluster:
        for number in range(kills):
            kind, tries = KINDS[number % len(KINDS)], 0
            while (
                outcome := _search_with_kill(run, Path(folder), cluster, kind, f"{seed}/{number}/{tries}", variables)
            ) is None:
                tries += 1  # the search ended before the kill
            outcomes.append(outcome)
            print(f"{number + 1}/{kills}: {outcome}", file=sys.stderr)
    evaluations = run.study.search.evaluations
    correct = [
        outcome
        for outcome in outcomes
        if (outcome.finished, outcome.lost, outcome.evaluated_twice) == (evaluations, 0, 0)
    ]
    title = f"{kills} searches of {evaluations} evaluations with one kill each; {len(correct)} ended correctly"
    columns = ("killed", "seed", "finished at the kill", "finished at the end", "lost", "evaluated twice")
    table = common.table(title, *columns, left=("seed",))
    for outcome in outcomes:
        table.add_row(*map(str, asdict(outcome).values()))
    Console().print(table)
    values = [outcome.to_json() for outcome in outcomes]
    return {"kills": kills, "whole": len(correct), "evaluations": evaluations, "outcomes": values}


def _search_with_kill(
    run: Run, folder: Path, cluster: Cluster, kind: str, seed: str, variables: list[str]
) -> Outcome | None:
    """Run a search in a copy of the run, and kill one process or node. Return the outcome.

    Return None if the search ended before the kill.
    """
    rng = random.Random(seed)
    finished_at_kill, delay = rng.randrange(run.study.search.evaluations), rng.uniform(0.0, 0.05)
    root = folder / seed.replace("/", "-")
    copied = Run(run.study, root / run.study.name)
    # Leave out the results of earlier searches; otherwise this search would have nothing to evaluate.
    excluded = shutil.ignore_patterns("search", "evaluations", "exports", "baselines")
    shutil.copytree(run.folder, copied.folder, ignore=excluded)
    command = [sys.executable, __file__, "--study", str(run.study.path), "--runs", str(root)]
    command += ["--search", cluster.address, *(part for variable in variables for part in ("--set", variable))]
    with _driver(command) as driver:
        _wait_until(driver, lambda: _content_of(copied.journal).count(_FINISHED) >= finished_at_kill)
        time.sleep(delay)
        if kind == "worker":
            _wait_until(driver, lambda: bool(_workers(cluster)))
        at_kill = _content_of(copied.journal)
        if driver.poll() is not None:
            return None
        _kill(kind, driver, cluster, rng)
        if kind == "driver":
            at_kill = _content_of(copied.journal)
        else:
            _wait_for_end(driver)
    if kind == "driver":
        with _driver(command) as resumed:
            _wait_for_end(resumed)
    costs = costs_of(run)
    before, after = (common.results_in(journal, run, costs) for journal in (at_kill, _content_of(copied.journal)))
    shutil.rmtree(root)
    distinct = {result.architecture for result in after}
    return Outcome(
        kind,
        seed,
        finished_before=len(before),
        finished=len(after),
        lost=sum(result not in after for result in before),
        evaluated_twice=len(after) - len(distinct),
    )


def _kill(kind: str, driver: subprocess.Popen[bytes], cluster: Cluster, rng: random.Random) -> None:
    if kind == "driver":
        driver.kill()
        driver.wait()
    elif kind == "node":
        cluster.remove_node(rng.choice(sorted(cluster.worker_nodes, key=lambda node: node.unique_id)), False)
        cluster.add_node(**_NODE)
    elif workers := _workers(cluster):
        os.kill(rng.choice(workers), signal.SIGKILL)


def _workers(cluster: Cluster) -> list[int]:
    """Return the process ids of the search workers on the nodes of the cluster.

    The processes are found by the name of their Ray actor.
    """
    process_ids = []
    for node in cluster.worker_nodes:
        (raylet,) = node.all_processes["raylet"]
        for process in psutil.Process(raylet.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "".join(process.cmdline()[:1]).startswith("ray::_Worker"):
                    process_ids.append(process.pid)
    return sorted(process_ids)


def _content_of(journal: Path) -> bytes:
    return journal.read_bytes() if journal.exists() else b""


@contextmanager
def _cluster(nodes: int) -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(nodes):
            cluster.add_node(**_NODE)
        yield cluster
    finally:
        cluster.shutdown()


@contextmanager
def _driver(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _wait_until(driver: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    """Wait until `reached` returns True or the driver ends. Raises `NasError` after `_LIMIT_S` seconds."""
    deadline = time.monotonic() + _LIMIT_S
    while driver.poll() is None and not reached():
        if time.monotonic() > deadline:
            raise NasError(
                f"a search made no progress for {_LIMIT_S:.0f} s; check whether the cluster's nodes are alive"
            )
        time.sleep(0.01)


def _wait_for_end(driver: subprocess.Popen[bytes]) -> None:
    try:
        _, errors = driver.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise NasError(f"a search did not end within {_LIMIT_S:.0f} s; check whether the cluster is alive") from None
    if driver.returncode:
        raise NasError(
            f"a search failed: {errors.decode().strip().splitlines()[-1]}; "
            "run the study with `nas search` to see the cause"
        )


def _search(run: Run, arguments: argparse.Namespace) -> dict[str, int]:
    connect(arguments.search, "--search")
    return evaluate_candidates(Run(run.study.on_ray(cpu_count()), run.folder)).outcomes


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.set_defaults(study="quickstart")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument(
        "--nodes", type=int, default=2, help="number of Ray nodes with one processor each, in addition to the head"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--search", metavar="ADDRESS", help="internal: run one search, on the Ray cluster at this address"
    )
    given = parser.parse_args()
    common.main(given, _search if given.search else measure)
