"""Where trials last: the same search on every storage, several drivers on one, and what others may see of it."""

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
from nas.search import storage
from nas.search.executors import AHEAD
from nas.search.sampler import Trials
from nas.search.storage import Storage, database
from nas.study import Study

KINDS = ("journal", "sqlite", "postgresql", "mysql")
on_every_storage = pytest.mark.parametrize("where", KINDS, indirect=True)


@on_every_storage
def test_a_search_is_the_same_everywhere_and_goes_on(search_folder, where):
    straight = run(search_folder, 14, where="straight.log")
    first = run(search_folder, 10, where=where)
    again = run(search_folder, 14, where=where)
    assert again.results[:10] == first.results
    assert [r.architecture for r in first.results] == [r.architecture for r in straight.results[:10]]
    assert len({r.architecture for r in again.results}) == 14


@on_every_storage
def test_drivers_share_what_there_is_to_evaluate(search_folder, where):
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
def test_who_is_late_gives_way(search_folder, where):
    """The second driver has not seen what the first one begins."""
    one, two = trials_of(search_folder, where), trials_of(search_folder, where)
    first = one.ask(1)
    assert first and two.ask(1) is None and two.outcomes()["repeated"] == 1, "both begin with the same"
    assert two.ask(1) is None and two.outcomes()["lost"] == 1, "there is room for one"
    assert two.ask(2).architecture != first.architecture
    one.catch_up()
    assert one.in_flight == 2


@on_every_storage
def test_what_a_driver_leaves_is_taken_up_and_what_it_runs_is_not(search_folder, where):
    one, two = trials_of(search_folder, where), trials_of(search_folder, where)
    left = [one.ask(20) for _ in range(3)]
    two.catch_up()
    taken = two.ask(20)
    assert two.in_flight == 4 and taken.architecture not in {proposal.architecture for proposal in left}
    one._storage.leave()
    two._storage._drivers._looked = 0.0
    two.catch_up()
    assert two.in_flight == 1 and two.outcomes()["lost"] == 3
    assert [two.ask(20).architecture for _ in left] == [proposal.architecture for proposal in left]
    one.tell(left[0], CandidateResult(left[0].architecture, 0.5, 10, 0.1))
    assert one.evaluated == 0, "given up by another meanwhile"


def test_a_driver_whose_count_stands_still_is_dead(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(storage, "time", SimpleNamespace(monotonic=lambda: now))
    opened = Storage(f"sqlite:///{tmp_path}/search.db", "tiny", "inputs", ["accuracy", "p50_ms"])
    beats, other = (storage._Beats(opened._storage, opened._study) for _ in range(2))
    beats._beat("silent", 7)
    other.join("loud")
    assert beats.is_alive("silent") and beats.is_alive("loud") and not beats.is_alive("unheard")
    for count in range(1, 4):
        now += storage._SECONDS_OF_SILENCE / 2
        other._beat("loud", count)
        assert beats.is_alive("loud") and beats.is_alive("silent") == (count < 2)
    other.leave()
    now += storage._SECONDS_BETWEEN_BEATS
    assert not beats.is_alive("loud")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["journal", "postgresql"], indirect=True)
def test_two_processes_share_a_search_and_one_outlives_the_other(search_folder, where, monkeypatch):
    """The first is killed when both have a share; the second goes on then."""
    monkeypatch.setattr(storage, "_SECONDS_BETWEEN_BEATS", 0.2)  # as the drivers do
    monkeypatch.setattr(storage, "_SECONDS_OF_SILENCE", 2.0)
    target = 40
    driver = Path(__file__).parent / "driver.py"
    command = (driver, search_folder, str(target), "inline", "nsga2", str(where), "2")
    drivers = [forked.Program(*command) for _ in range(2)]
    seen, deadline = trials_of(search_folder, where), time.monotonic() + 120
    shares = _shares(seen)
    while (len(shares) < 2 or min(shares.values()) < 5) and time.monotonic() < deadline:
        time.sleep(0.05)
        shares = _shares(seen)
    drivers[0].kill()
    drivers[0].communicate()
    assert shares.total() == 10
    (search_folder / "go").touch()
    output, errors = drivers[1].communicate(timeout=120)
    assert drivers[1].returncode == 0, errors
    assert output.startswith(f"{target} ")
    state = run(search_folder, target, where=where)
    assert len({result.architecture for result in state.results}) == target == len(state.results)
    assert state.outcomes["lost"] <= AHEAD
    assert len(_shares(seen)) == 2 and min(_shares(seen).values()) >= 5


def _shares(trials: Trials) -> Counter[str]:
    """The number of results of each driver."""
    storage = trials._storage
    found = storage._storage.get_all_trials(storage._study, deepcopy=False)
    return Counter(trial.user_attrs["driver"] for trial in found if "result" in trial.user_attrs)


def test_a_database_holds_a_search_for_each_study_and_inputs(search_folder, tmp_path):
    url = f"sqlite:///{tmp_path}/search.db"
    run(search_folder, 3, where=url)
    assert trials_of(search_folder, url, inputs="changed").evaluated == 0
    assert trials_of(search_folder, url).evaluated == 3
    assert sorted(optuna.get_all_study_names(url)) == ["tiny-changed", "tiny-inputs"]


def test_optuna_shows_meaningful_names(search_folder):
    """Through Optuna's own reader of journals, as optuna-dashboard does."""
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


def test_a_journal_of_optunas_own_is_taken_up(search_folder):
    """As this program left them once: another study name, trials that wait, one whose process died while it asked."""
    path = search_folder / "journal.log"
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))), study_name="search", directions=["maximize", "minimize"]
    )
    study.set_user_attr("inputs", "inputs")
    study.ask()
    study.enqueue_trial({"layers": 0})
    assert len(run(search_folder, 6).results) == 6
    with pytest.raises(SearchError, match="the search was started with other inputs"):
        trials_of(search_folder, inputs="changed")


def test_what_is_wrong_with_a_database_is_one_line_without_its_password(search_folder, monkeypatch):
    def refusal(url: str) -> str:
        with pytest.raises(SearchError) as found:
            trials_of(search_folder, url)
        with pytest.raises(SearchError) as checked:
            storage.check_database(url)
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


def test_a_wrong_password_is_not_repeated(search_folder, postgresql):
    with pytest.raises(SearchError, match="password authentication failed") as found:
        trials_of(search_folder, postgresql.replace("not%2Fa", "s3cret"))
    assert "s3cret" not in str(found.value)


def test_a_study_names_its_database_and_never_shows_it(tiny_study, tmp_path, nas):
    text = tiny_study.read_text()
    secret = 'storage = "postgresql+psycopg://nas:${NAS_PASSWORD}@127.0.0.1:9/none"'
    tiny_study.write_text(
        f'[variables]\nNAS_PASSWORD = "of the database"\n{text}'.replace("[search]", f"[search]\n{secret}")
    )
    runs = tmp_path / "runs"
    for verb in ("check", "search"):
        code, out, err = nas(verb, str(tiny_study), "--runs", str(runs), "--set", "NAS_PASSWORD=s3cret")
        assert code == 2 and err.startswith("error: search.storage: postgresql+psycopg://127.0.0.1:9/none cannot")
        assert "s3cret" not in out + err
    assert "s3cret" not in repr(Study.load(tiny_study, {"NAS_PASSWORD": "s3cret"}))
    written = [path for path in runs.rglob("*") if path.is_file()]
    assert written and not any(b"s3cret" in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    "url", ["redis://nas:s3cret@host/0", "postgresql://nas:s3cret@host:port/name", "sqlite://", "mysql://s3cret@host"]
)
def test_what_is_no_database_is_refused(tiny_study, url):
    tiny_study.write_text(tiny_study.read_text().replace("[search]", f'[search]\nstorage = "{url}"'))
    with pytest.raises(StudyError, match="must be the URL of an SQLite, PostgreSQL or MySQL database") as found:
        Study.load(tiny_study)
    assert "s3cret" not in str(found.value)


def test_the_file_of_a_database_is_relative_to_the_study():
    assert database("sqlite:///search.db", Path("/studies/one")) == "sqlite:////studies/one/search.db"
    assert database("sqlite:////tmp/search.db", Path("/studies/one")) == "sqlite:////tmp/search.db"
    assert database("postgresql://host/name", Path("/studies/one")) == "postgresql://host/name"


def test_nothing_can_be_joined_before_it_has_begun(tiny_study, nas):
    code, _, err = nas("search", str(tiny_study), "--join", "--runs", str(tiny_study.parent / "runs"))
    assert code == 2 and "no search to join for this study with these settings" in err
    assert not (tiny_study.parent / "runs").exists()


def test_a_search_is_joined_with_its_own_profiles(copied_study, nas):
    """Its sampler may be another by now; what is written is trials and accuracies alone."""
    runs = copied_study.parent / "runs"
    join = ("search", str(copied_study), "--join", "--runs", str(runs), "--json")
    files = {path: path.read_bytes() for path in runs.rglob("*.json")}
    more = copied_study.read_text().replace("evaluations = 16", 'sampler = "guided"\nevaluations = 20')
    copied_study.write_text(more)
    code, out, err = nas(*join)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["evaluated"] == 20
    assert files == {path: path.read_bytes() for path in runs.rglob("*.json")}
    profile = next((runs / "tiny" / "profiles").glob("cpu.json"))
    profile.write_text(profile.read_text() + " ")
    copied_study.write_text(more.replace("evaluations = 20", "evaluations = 24"))
    code, _, err = nas(*join)
    assert code == 2 and "the search was started with other profiles" in err and len(err.splitlines()) == 1


def test_other_budgets_ask_for_no_accuracy_twice(copied_study, nas):
    """A search of other budgets begins anew, with what is known of the same supernet, if that serves any budget."""
    runs = copied_study.parent / "runs"
    search = ("search", str(copied_study), "--runs", str(runs))
    (near,) = (runs / "tiny" / "evaluations").glob("*.jsonl")
    copied_study.write_text(copied_study.read_text().replace("[supernet]", '[supernet]\nsampling = "spread"'))
    code, _, err = nas(*search)
    assert code == 0, err
    (known,) = (path for path in near.parent.glob("*.jsonl") if path != near)
    before = _seconds(line for line in known.read_text().splitlines() if line)
    copied_study.write_text(re.sub(r'p50_ms = "\d+%"', 'p50_ms = "85%"', copied_study.read_text()))
    code, _, err = nas(*search)
    assert code == 0, err
    results = [json.loads(line) for line in (runs / "tiny" / "log.jsonl").read_text().splitlines()]
    results = [line for line in results if line["event"] == "evaluated"][-16:]
    again = {line["architecture"]: line["seconds"] for line in results}
    assert before.keys() & again.keys()
    assert all(before[name] == again[name] for name in before.keys() & again.keys())


def _seconds(lines: Iterable[str]) -> dict[str, float]:
    """How long each evaluation took, by the architecture: a measurement, so equal where it is the same one."""
    found = [CandidateResult.from_json(json.loads(line)) for line in lines]
    return {result.architecture.describe(): result.seconds for result in found}


def test_a_database_has_a_search_for_each_supernet(copied_study, monkeypatch):
    copied_study.write_text(copied_study.read_text().replace("[search]", '[search]\nstorage = "sqlite:///search.db"'))
    check_storage(study := Study.load(copied_study))
    assert not (copied_study.parent / "search.db").exists()
    found = Run.of(study, copied_study.parent / "runs")
    for weights in ("some", "others", "some"):
        monkeypatch.setattr(searches, "weights_digest", lambda _, weights=weights: weights)
        searches.trials_of(found, profiles.costs_of(found))
    assert len(optuna.get_all_study_names(f"sqlite:///{copied_study.parent}/search.db")) == 2


def test_bf16_is_part_of_what_results_depend_on(copied_study):
    study = Study.load(copied_study)
    exact = study.model_copy(update={"search": study.search.model_copy(update={"bf16": False})})
    one, other = (searches.search_inputs(Run.of(each, copied_study.parent / "runs")) for each in (study, exact))
    assert one != other


def test_other_values_in_a_database_name_the_search_to_delete(search_folder, tmp_path):
    trials = trials_of(search_folder, f"sqlite:///{tmp_path}/search.db")
    trials.record_dependency("profiles", "some")
    with pytest.raises(SearchError, match="delete-study --study-name tiny-inputs"):
        trials.record_dependency("profiles", "others")


@pytest.mark.parametrize("problem", [ProgrammingError, OperationalError, IntegrityError])
def test_drivers_that_make_the_tables_at_once_do_not_hinder_each_other(search_folder, tmp_path, monkeypatch, problem):
    """Two that begin with an empty database both find no tables, and one of them fails to make them."""
    connect, failures = storage.RDBStorage, [problem("", {}, Exception('relation "studies" already exists'))]

    def late(url):
        if failures:
            raise failures.pop()
        return connect(url)

    monkeypatch.setattr(storage, "RDBStorage", late)
    monkeypatch.setattr(storage, "_SECONDS_BETWEEN_TRIES", 0.0)
    assert len(run(search_folder, 3, where=f"sqlite:///{tmp_path}/search.db").results) == 3 and not failures
    failures.append(ProgrammingError("", {}, Exception("permission denied for schema public")))
    with pytest.raises(SearchError, match="permission denied for schema public"):
        trials_of(search_folder, f"sqlite:///{tmp_path}/other.db")
