"""Storages of trials: the same search on each of them, several drivers that share one, and problems with databases."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import forked
import optuna
import pytest
from driver import run, trials_of
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from nas.errors import SearchError, StudyError
from nas.evaluate import CandidateResult
from nas.pipeline import Run, profiles, searches
from nas.pipeline.searches import check_storage
from nas.search import database, drivers
from nas.search.executors import AHEAD
from nas.search.sampler import Trials
from nas.search.storage import Storage
from nas.study import Study

KINDS = ("journal", "sqlite", "postgresql", "mysql")
on_every_storage = pytest.mark.parametrize("where", KINDS, indirect=True)


@on_every_storage
def test_a_search_is_the_same_on_every_storage_and_can_be_resumed(search_folder, where):
    straight = run(search_folder, 14, where="straight.log")
    first = run(search_folder, 10, where=where)
    again = run(search_folder, 14, where=where)
    assert again.results[:10] == first.results
    assert [r.architecture for r in first.results] == [r.architecture for r in straight.results[:10]]
    assert len({r.architecture for r in again.results}) == 14


@on_every_storage
def test_two_drivers_share_the_candidates_of_a_search(search_folder, where):
    one, two = trials_of(search_folder, where), trials_of(search_folder, where)
    proposals = []
    for trials in (one, two) * 20:
        trials.catch_up()
        if trials.has_room(12):
            proposals += [(trials, proposal) for proposal in [trials.ask(12)] if proposal]
    assert len(proposals) == 12 == len({proposal.architecture for _, proposal in proposals})
    assert {id(trials) for trials, _ in proposals} == {id(one), id(two)}
    for trials, proposal in proposals:
        trials.tell(proposal, CandidateResult(proposal.architecture, 0.5, 10, 0.1))
    one.catch_up()
    two.catch_up()
    assert one.results() == two.results() and one.evaluated == 12
    assert one.outcomes() == two.outcomes() and one.outcomes()["lost"] == 0


@on_every_storage
def test_the_later_of_two_conflicting_proposals_is_given_up(search_folder, where):
    """The second driver has not seen the first one's proposal yet."""
    one, two = trials_of(search_folder, where), trials_of(search_folder, where)
    first = one.ask(1)
    assert first and two.ask(1) is None and two.outcomes()["repeated"] == 1, "both propose the same candidate first"
    assert two.ask(1) is None and two.outcomes()["lost"] == 1, "there is room for only one"
    assert two.ask(2).architecture != first.architecture
    one.catch_up()
    assert one.in_flight == 2


@on_every_storage
def test_candidates_of_an_ended_driver_are_taken_over_and_those_of_a_live_driver_are_not(search_folder, where):
    one, two = trials_of(search_folder, where), trials_of(search_folder, where)
    left = [one.ask(20) for _ in range(3)]
    two.catch_up()
    taken = two.ask(20)
    assert two.in_flight == 4 and taken.architecture not in {proposal.architecture for proposal in left}
    one._storage.leave()
    two._storage._drivers._last_read = 0.0
    two.catch_up()
    assert two.in_flight == 1 and two.outcomes()["lost"] == 3
    assert [two.ask(20).architecture for _ in left] == [proposal.architecture for proposal in left]
    one.tell(left[0], CandidateResult(left[0].architecture, 0.5, 10, 0.1))
    assert one.evaluated == 0, "the other driver has given up this trial"


def test_a_driver_whose_counter_stops_is_presumed_dead(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(drivers, "time", SimpleNamespace(monotonic=lambda: now))
    opened = Storage(f"sqlite:///{tmp_path}/search.db", "tiny", "inputs", ["accuracy", "p50_ms"])
    beats, other = (drivers.Heartbeats(opened._storage, opened._study_id) for _ in range(2))
    beats._beat("silent", 7)
    other.join("loud")
    assert beats.is_alive("silent") and beats.is_alive("loud") and not beats.is_alive("unheard")
    for count in range(1, 4):
        now += drivers._HEARTBEAT_TIMEOUT_S / 2
        other._beat("loud", count)
        assert beats.is_alive("loud") and beats.is_alive("silent") == (count < 2)
    other.leave()
    now += drivers._HEARTBEAT_INTERVAL_S
    assert not beats.is_alive("loud")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["journal", "postgresql"], indirect=True)
def test_a_process_that_shares_a_search_continues_after_the_other_is_killed(search_folder, where, monkeypatch):
    """The first process is killed once both have results."""
    monkeypatch.setattr(drivers, "_HEARTBEAT_INTERVAL_S", 0.2)  # as in driver.py
    monkeypatch.setattr(drivers, "_HEARTBEAT_TIMEOUT_S", 2.0)
    target = 40
    driver = Path(__file__).parent / "driver.py"
    command = (driver, search_folder, str(target), "inline", "nsga2", str(where), "2")
    processes = [forked.Program(*command) for _ in range(2)]
    seen, deadline = trials_of(search_folder, where), time.monotonic() + 120
    shares = _shares(seen)
    while (len(shares) < 2 or min(shares.values()) < 5) and time.monotonic() < deadline:
        time.sleep(0.05)
        shares = _shares(seen)
    processes[0].kill()
    processes[0].communicate()
    assert shares.total() == 10
    (search_folder / "go").touch()
    output, errors = processes[1].communicate(timeout=120)
    assert processes[1].returncode == 0, errors
    assert output.startswith(f"{target} ")
    state = run(search_folder, target, where=where)
    assert len({result.architecture for result in state.results}) == target == len(state.results)
    assert state.outcomes["lost"] <= AHEAD
    assert len(_shares(seen)) == 2 and min(_shares(seen).values()) >= 5


def _shares(trials: Trials) -> Counter[str]:
    """Return the number of results of each driver."""
    storage = trials._storage
    found = storage._storage.get_all_trials(storage._study_id, deepcopy=False)
    return Counter(trial.user_attrs["driver"] for trial in found if "result" in trial.user_attrs)


def test_a_database_holds_a_separate_search_for_other_inputs(search_folder, tmp_path):
    url = f"sqlite:///{tmp_path}/search.db"
    run(search_folder, 3, where=url)
    assert trials_of(search_folder, url, inputs="changed").evaluated == 0
    assert trials_of(search_folder, url).evaluated == 3
    assert sorted(optuna.get_all_study_names(url)) == ["tiny-changed", "tiny-inputs"]


def test_optuna_shows_meaningful_names(search_folder):
    """They are read with Optuna's own reader of journals, as optuna-dashboard does."""
    results = run(search_folder, 12).results
    found = JournalStorage(JournalFileBackend(str(search_folder / "journal.log")))
    study = optuna.load_study(storage=found, study_name="tiny-inputs")
    assert study.metric_names == ["accuracy", "predicted p50_ms"]
    evaluated = [trial for trial in study.trials if trial.user_attrs["outcome"] == "evaluated"]
    for trial, result in zip(evaluated, results, strict=True):
        assert {"layers", "hidden_size", "attention_0", "feed_forward_2"} <= trial.params.keys()
        assert trial.user_attrs["architecture"] == result.architecture.describe()
        assert trial.user_attrs["digest"] == result.architecture.digest
        assert trial.values[0] == result.objective and trial.constraints["budget"] <= 0.0
    assert study.best_trials


def test_a_journal_of_an_earlier_version_is_resumed(search_folder):
    """It has another study name, a waiting trial, and a trial whose process died before it got a candidate."""
    path = search_folder / "journal.log"
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))), study_name="search", directions=["maximize", "minimize"]
    )
    study.set_user_attr("inputs", "inputs")
    study.ask()
    study.enqueue_trial({"layers": 0})
    assert len(run(search_folder, 6).results) == 6
    with pytest.raises(SearchError, match="the search was started with different inputs"):
        trials_of(search_folder, inputs="changed")


def test_problems_with_a_database_are_reported_in_one_line_without_the_password(search_folder, monkeypatch):
    def refusal(url: str) -> str:
        with pytest.raises(SearchError) as found:
            trials_of(search_folder, url)
        with pytest.raises(SearchError) as checked:
            database.check_database(url)
        assert str(checked.value) == str(found.value) and "\n" not in str(found.value)
        return str(found.value)

    silent = refusal("postgresql+psycopg://nas:s3cret@127.0.0.1:9/none?application_name=s3cret")
    assert "127.0.0.1:9/none cannot be used" in silent and "s3cret" not in silent
    assert "cannot be used" in refusal("postgresql+nonsense://nas:s3cret@127.0.0.1/none")
    assert "cannot be used: unable to open" in refusal("sqlite:////no/such/folder/search.db")
    for driver, extra in (("postgresql+psycopg", "postgresql"), ("mysql+pymysql", "mysql")):
        monkeypatch.setitem(sys.modules, driver.partition("+")[2], None)
        missing = refusal(f"{driver}://nas:s3cret@127.0.0.1:9/none")
        assert f"pip install 'compact-bert-nas[{extra}]'" in missing and "s3cret" not in missing


def test_a_wrong_password_is_not_shown(search_folder, postgresql):
    with pytest.raises(SearchError, match="password authentication failed") as found:
        trials_of(search_folder, postgresql.replace("not%2Fa", "s3cret"))
    assert "s3cret" not in str(found.value)


def test_the_password_of_a_database_is_in_no_message_and_no_file(tiny_study, tmp_path, nas):
    text = tiny_study.read_text()
    secret = 'storage = "postgresql+psycopg://nas:${NAS_PASSWORD}@127.0.0.1:9/none"'
    tiny_study.write_text(
        f'[variables]\nNAS_PASSWORD = "of the database"\n{text}'.replace("[search]", f"[search]\n{secret}")
    )
    runs = tmp_path / "runs"
    for verb in ("check", "search"):
        out, err = nas(verb, tiny_study, "--runs", runs, "--set", "NAS_PASSWORD=s3cret", code=2)
        assert err.startswith("error: search.storage: postgresql+psycopg://127.0.0.1:9/none cannot")
        assert "s3cret" not in out + err
    assert "s3cret" not in repr(Study.load(tiny_study, {"NAS_PASSWORD": "s3cret"}))
    written = [path for path in runs.rglob("*") if path.is_file()]
    assert written and not any(b"s3cret" in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    "url", ["redis://nas:s3cret@host/0", "postgresql://nas:s3cret@host:port/name", "sqlite://", "mysql://s3cret@host"]
)
def test_a_url_of_anything_but_a_supported_database_is_refused(tiny_study, url):
    tiny_study.write_text(tiny_study.read_text().replace("[search]", f'[search]\nstorage = "{url}"'))
    with pytest.raises(StudyError, match="must be the URL of an SQLite, PostgreSQL or MySQL database") as found:
        Study.load(tiny_study)
    assert "s3cret" not in str(found.value)


def test_the_path_of_an_sqlite_file_is_relative_to_the_study():
    assert database.database("sqlite:///search.db", Path("/studies/one")) == "sqlite:////studies/one/search.db"
    assert database.database("sqlite:////tmp/search.db", Path("/studies/one")) == "sqlite:////tmp/search.db"
    assert database.database("postgresql://host/name", Path("/studies/one")) == "postgresql://host/name"


def test_a_search_that_has_not_started_cannot_be_joined(tiny_study, nas):
    _, err = nas("search", tiny_study, "--join", "--runs", tiny_study.parent / "runs", code=2)
    assert "there is no search to join, because none has been started with the study's current settings" in err
    assert not (tiny_study.parent / "runs").exists()


def test_joining_a_search_needs_its_profiles_and_adds_only_trials_and_accuracies(copied_study, nas):
    """The joining study may name another sampler."""
    runs = copied_study.parent / "runs"
    join = ("search", str(copied_study), "--join", "--runs", str(runs), "--json")
    files = {path: path.read_bytes() for path in runs.rglob("*.json")}
    more = copied_study.read_text().replace("evaluations = 16", 'sampler = "guided"\nevaluations = 20')
    copied_study.write_text(more)
    out, _ = nas(*join)
    assert json.loads(out.splitlines()[-1])["evaluated"] == 20
    assert files == {path: path.read_bytes() for path in runs.rglob("*.json")}
    profile = next((runs / "tiny" / "profiles").glob("cpu.json"))
    profile.write_text(profile.read_text() + " ")
    copied_study.write_text(more.replace("evaluations = 20", "evaluations = 24"))
    _, err = nas(*join, code=2)
    assert "the search was started with different profiles" in err and len(err.splitlines()) == 1


def test_a_search_for_other_budgets_reuses_the_accuracies_of_the_same_supernet(copied_study, nas):
    """A supernet that was trained with `sampling = "spread"` can be used for any budget."""
    runs = copied_study.parent / "runs"
    search = ("search", str(copied_study), "--runs", str(runs))
    (near,) = (runs / "tiny" / "evaluations").glob("*.jsonl")
    copied_study.write_text(copied_study.read_text().replace("[supernet]", '[supernet]\nsampling = "spread"'))
    nas(*search)
    (known,) = (path for path in near.parent.glob("*.jsonl") if path != near)
    before = _seconds(line for line in known.read_text().splitlines() if line)
    copied_study.write_text(re.sub(r'p50_ms = "\d+%"', 'p50_ms = "85%"', copied_study.read_text()))
    nas(*search)
    results = [json.loads(line) for line in (runs / "tiny" / "log.jsonl").read_text().splitlines()]
    results = [line for line in results if line["event"] == "evaluated"][-16:]
    again = {line["architecture"]: line["seconds"] for line in results}
    assert before.keys() & again.keys()
    assert all(before[name] == again[name] for name in before.keys() & again.keys())


def _seconds(lines: Iterable[str]) -> dict[str, float]:
    """Return the duration of each evaluation by its architecture. Two evaluations hardly ever take equally long."""
    found = [CandidateResult.from_json(json.loads(line)) for line in lines]
    return {result.architecture.describe(): result.seconds for result in found}


def test_a_database_holds_a_separate_search_for_each_supernet(copied_study, monkeypatch):
    copied_study.write_text(copied_study.read_text().replace("[search]", '[search]\nstorage = "sqlite:///search.db"'))
    check_storage(study := Study.load(copied_study))
    assert not (copied_study.parent / "search.db").exists()
    found = Run.of(study, copied_study.parent / "runs")
    for weights in ("some", "others", "some"):
        monkeypatch.setattr(searches, "weights_digest", lambda _, weights=weights: weights)
        searches.trials_of(found, profiles.costs_of(found))
    assert len(optuna.get_all_study_names(f"sqlite:///{copied_study.parent}/search.db")) == 2


def test_a_search_without_bf16_has_other_inputs(copied_study):
    study = Study.load(copied_study)
    exact = study.model_copy(update={"search": study.search.model_copy(update={"bf16": False})})
    one, other = (searches.search_inputs(Run.of(each, copied_study.parent / "runs")) for each in (study, exact))
    assert one != other


def test_a_changed_dependency_in_a_database_names_the_command_that_deletes_the_search(search_folder, tmp_path):
    trials = trials_of(search_folder, f"sqlite:///{tmp_path}/search.db")
    trials.record_dependency("profiles", "some")
    with pytest.raises(SearchError, match="delete-study --study-name tiny-inputs"):
        trials.record_dependency("profiles", "others")


@pytest.mark.parametrize("problem", [ProgrammingError, OperationalError, IntegrityError])
def test_a_driver_retries_if_another_creates_the_tables_at_the_same_time(search_folder, tmp_path, monkeypatch, problem):
    """Two drivers that start with an empty database both find no tables, and one of them fails to create them."""
    connect, failures = database.RDBStorage, [problem("", {}, Exception('relation "studies" already exists'))]

    def late(url):
        if failures:
            raise failures.pop()
        return connect(url)

    monkeypatch.setattr(database, "RDBStorage", late)
    monkeypatch.setattr(database, "_RETRY_DELAY_S", 0.0)
    assert len(run(search_folder, 3, where=f"sqlite:///{tmp_path}/search.db").results) == 3 and not failures
    failures.append(ProgrammingError("", {}, Exception("permission denied for schema public")))
    with pytest.raises(SearchError, match="permission denied for schema public"):
        trials_of(search_folder, f"sqlite:///{tmp_path}/other.db")
