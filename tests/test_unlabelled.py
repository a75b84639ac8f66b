"""Unlabelled texts that are new are used for distillation, and change neither the data nor the teacher."""

from __future__ import annotations

import json
import shutil

import pytest
from datasets import Dataset
from tiny import (
    HUB_STUDY,
    PAIR_STUDY,
    TINY_STUDY,
    as_parquet,
    fill_hub,
    make_pairs,
    make_rows,
    make_tokenizer,
    write_pair_study,
)

from nas.data import read_splits, read_unlabelled
from nas.data.files import values_of
from nas.errors import DataError, StudyError
from nas.pipeline import Run, outdated, snapshots
from nas.pipeline.commands import prepare_data
from nas.pipeline.data import splits
from nas.pipeline.estimates import Workload
from nas.pipeline.finalists import training_steps
from nas.pipeline.rows import look_at_rows
from nas.pipeline.runner import bring_up_to_date
from nas.pipeline.sources import data_inputs, teacher_inputs
from nas.pipeline.steps import steps_of
from nas.pipeline.supernets import distillation, supernet_inputs
from nas.pipeline.unlabelled import distilled_texts, unlabelled_counts, unlabelled_inputs
from nas.study import Study, Task
from nas.supernet.loops import Schedule

WITH_TEXTS = TINY_STUDY.replace("max_length = 32", 'unlabelled = ["more.parquet"]\nmax_length = 32')


def _write(path, texts, **columns):
    Dataset.from_dict({"text": texts, **columns}).to_parquet(path)


def _new_rows(count):
    """Return texts of 13 to 15 words, none of which is in the tiny data."""
    return [
        " ".join([*row["text"].split(), *["w0"] * 13][:13] + ["w1"] * (at % 3)) for at, row in enumerate(_rows(count))
    ]


def _rows(count):
    return make_rows(count, 5).to_list()


@pytest.fixture
def study(tiny_study):
    """The tiny study with 300 unlabelled texts, and a few more that it contains already."""
    known = {
        name: Dataset.from_parquet(str(tiny_study.parent / f"{name}.parquet"), keep_in_memory=True)["text"]
        for name in ("train", "test")
    }
    new = list(dict.fromkeys(_new_rows(300)))
    _write(tiny_study.parent / "more.parquet", [*new, known["train"][0], known["test"][0].upper(), new[0]])
    tiny_study.write_text(WITH_TEXTS)
    return tiny_study


@pytest.fixture
def run(study, tmp_path):
    return Run.of(Study.load(study), tmp_path / "runs")


def _small(tmp_path, **changes):
    """Return a task of single texts, its splits, and a path for its unlabelled texts."""
    _write(tmp_path / "train.parquet", [f"w{number} w1" for number in range(10)], label=[0, 1] * 5)
    _write(tmp_path / "test.parquet", ["w50 w51", "w52"], label=[0, 1])
    task = Task(train="train.parquet", test="test.parquet", text=("text",), holdout={"size": 2}, **changes)
    train, test = (str(tmp_path / f"{name}.parquet") for name in ("train", "test"))
    return task, read_splits(task, train, test, 0), tmp_path / "more.parquet"


def test_each_text_is_kept_or_counted_under_one_reason_for_leaving_it_out(tmp_path):
    task, splits, path = _small(tmp_path)
    searched, trained = splits.texts["search"][0][0], splits.texts["train"][0][0]
    other = ["w60", " W60", "w61 w62", "w61  w62 "]
    _write(path, ["W50  w51", "w52", "w52", searched.upper(), *[f"{trained} "] * 3, *other, "w61"])
    found = read_unlabelled(task, [(str(path), True)], splits)
    assert found.texts == [["w60", "w61 w62", "w61"]], "the first of several equal texts, unchanged"
    counts = found.counts
    assert (counts.read, counts.kept) == (12, 3)
    assert (counts.in_test, counts.in_search, counts.in_train, counts.repeated) == (3, 1, 3, 2)
    assert counts.summary() == (
        "3 of 12 unlabelled texts are new; left out: 3 in the test set, 1 in the search set, 3 in the training "
        "set, 2 repeated"
    )


def test_files_of_several_formats_are_combined(tmp_path):
    task, splits, path = _small(tmp_path)
    _write(path, ["w60"])
    (tmp_path / "more.csv").write_text("text,other\nw61,1\nw60,2\n")
    (tmp_path / "more.jsonl").write_text('{"text": "w62", "n": 1}\n')
    files = [(str(path.with_suffix(suffix)), True) for suffix in (".parquet", ".csv", ".jsonl")]
    found = read_unlabelled(task, files, splits)
    assert found.texts == [["w60", "w61", "w62"]] and found.counts.repeated == 1


def test_pairs_are_equal_only_if_both_texts_are_equal_and_in_the_same_order(tmp_path):
    for name, seed in (("train", 0), ("test", 1)):
        make_pairs(60, seed).to_parquet(tmp_path / f"{name}.parquet")
    task = Task(train="train.parquet", test="test.parquet", text=("first", "second"), kind="regression",
                metric="spearman", holdout={"size": 20})  # fmt: skip
    splits = read_splits(task, *(str(tmp_path / f"{name}.parquet") for name in ("train", "test")), 0)
    one, other = (column[0] for column in splits.texts["test"])
    pairs = {"first": [one, other, one], "second": [other, one, "w9 w9 w9 w9 w9 w9 w9"]}
    Dataset.from_dict(pairs).to_parquet(tmp_path / "more.parquet")
    found = read_unlabelled(task, [(str(tmp_path / "more.parquet"), True)], splits)
    assert found.texts == [[other, one], [one, "w9 w9 w9 w9 w9 w9 w9"]] and found.counts.in_test == 1


def test_queries_of_the_search_and_test_sets_are_left_out_even_with_other_passages(tmp_path):
    def write(name, queries, passages, **columns):
        rows = {"query": queries, "passage": passages, **columns}
        Dataset.from_dict(rows).to_parquet(tmp_path / f"{name}.parquet")
        return str(tmp_path / f"{name}.parquet")

    queries = [f"q{number}" for number in range(10) for _ in range(2)]
    train = write("train", queries, ["yes", "no"] * 10, label=[1, 0] * 10)
    test = write("test", ["t0", "t0", "t1", "t1"], ["yes", "no"] * 2, label=[1, 0] * 2)
    task = Task(train="train.parquet", test="test.parquet", text=("query", "passage"), kind="ranking",
                metric="ndcg@10", holdout={"size": 4})  # fmt: skip
    splits = read_splits(task, train, test, 0)
    searched, trained = splits.texts["search"][0][0], splits.texts["train"][0][0]
    more = write("more", ["T0 ", searched, trained, trained, "new"], ["maybe", "maybe", "maybe", "yes", "yes"])
    found = read_unlabelled(task, [(more, True)], splits)
    assert found.texts == [[trained, "new"], ["maybe", "yes"]]
    assert (found.counts.in_test, found.counts.in_search, found.counts.in_train) == (1, 1, 1)


def test_invalid_texts_are_refused_as_in_the_training_set(tmp_path, capsys):
    task, splits, path = _small(tmp_path)
    refused = {
        "no column 'text'; use one of words": {"words": ["w60"]},
        "must hold texts, but row 1 holds None": {"text": ["w60", None]},
        "has no rows": {"text": []},
    }
    for words, columns in refused.items():
        Dataset.from_dict(columns).to_parquet(path)
        with pytest.raises(DataError, match=words):
            read_unlabelled(task, [(str(path), True)], splits)
    _write(path, ["w50 w51", "w1 w1"])
    with pytest.raises(DataError, match=r"task.unlabelled: .*more.parquet: 0 of 2 unlabelled texts are new; .*remove"):
        read_unlabelled(task, [(str(path), True)], splits)
    _write(path, ["w60", " "])
    assert read_unlabelled(task, [(str(path), True)], splits).counts.kept == 2
    assert "1 of 2 texts are empty, the first in row 1" in capsys.readouterr().err


def test_a_name_that_is_neither_a_data_file_nor_a_split_is_refused(tiny_study):
    tiny_study.write_text(WITH_TEXTS.replace("more.parquet", "more.txt"))
    with pytest.raises(StudyError, match=r"unlabelled: a data file must end in .*'more.txt'; convert the file"):
        Study.load(tiny_study)
    tiny_study.write_text(WITH_TEXTS.replace("more.parquet", "embedded"))
    with pytest.raises(StudyError, match="unlabelled: a data file must end in"):
        Study.load(tiny_study)
    tiny_study.write_text(HUB_STUDY.replace("max_length", 'unlabelled = ["unsupervised", "more.csv"]\nmax_length'))
    assert Study.load(tiny_study).task.unlabelled_files == ("more.csv",)


def test_unlabelled_texts_change_the_supernet_but_not_the_data_or_the_teacher(run, study):
    without = Run(Study.load(study).model_copy(update={"task": _without(run.study.task)}), run.folder)
    assert data_inputs(run) == data_inputs(without) and teacher_inputs(run) == teacher_inputs(without)
    assert supernet_inputs(run) != supernet_inputs(without)
    names = [step.name for step in steps_of(run)]
    assert "unlabelled" in names and "unlabelled" not in [step.name for step in steps_of(without)]


def _without(task):
    return task.model_copy(update={"unlabelled": ()})


def test_texts_are_identified_by_their_content_not_by_their_path(run, study):
    supernet_digest, inputs = supernet_inputs(run), unlabelled_inputs(run)
    more = study.parent / "more.parquet"
    moved = more.rename(study.parent / "moved.parquet")
    study.write_text(study.read_text().replace("more.parquet", "moved.parquet"))
    other = Run.of(Study.load(study), run.folder.parent)
    assert (supernet_inputs(other), unlabelled_inputs(other)) == (supernet_digest, inputs)
    _write(moved, ["w1 w2 w3"])
    assert supernet_inputs(other) != supernet_digest and unlabelled_inputs(other) != inputs


def test_a_finished_run_keeps_its_teacher_if_texts_are_added_to_the_study(finished_study, tmp_path):
    study = shutil.copytree(finished_study.parent, tmp_path / "tiny") / finished_study.name
    run = Run.of(Study.load(study), study.parent / "runs")
    assert outdated.outdated(run) == ""
    _write(study.parent / "more.parquet", _new_rows(20))
    study.write_text(study.read_text().replace(TINY_STUDY, WITH_TEXTS))
    run = Run.of(Study.load(study), study.parent / "runs")
    assert "computed: supernet, front; run nas run to rebuild them" in outdated.outdated(run)


def test_distillation_reads_labelled_and_new_texts_without_labels(run, capsys):
    bring_up_to_date(run, steps_of(run), "unlabelled")
    data, counts = splits(run), unlabelled_counts(run)
    assert (counts.in_test, counts.in_search + counts.in_train, counts.repeated) == (1, 1, 1)
    assert counts.read == counts.kept + 3 and counts.summary() in capsys.readouterr().err
    texts = distilled_texts(run)
    assert len(texts) == len(data.train) + counts.kept and set(texts.column_names) == {
        "input_ids", "token_type_ids", "length",
    }  # fmt: skip
    assert values_of(texts, "input_ids")[: len(data.train)] == values_of(data.train, "input_ids")
    new = make_tokenizer()(list(dict.fromkeys(_new_rows(300))), truncation=True, max_length=32)["input_ids"]
    assert values_of(texts, "input_ids")[len(data.train) :] == new
    assert not (run.folder / "teacher").exists(), "reading texts needs no teacher"


def test_an_epoch_of_the_final_training_reads_every_text_once(run):
    bring_up_to_date(run, steps_of(run), "unlabelled")
    texts = len(splits(run).train) + unlabelled_counts(run).kept
    # Half an epoch, which is rounded to whole batches of 64 texts.
    assert 64 * training_steps(run) == pytest.approx(0.5 * texts, abs=64)


def test_without_unlabelled_texts_the_distillation_reads_the_training_rows(tiny_study, tmp_path):
    run = Run.of(Study.load(tiny_study), tmp_path / "runs")
    data = prepare_data(run)
    assert unlabelled_counts(run) is None
    texts = distilled_texts(run)
    assert "labels" not in texts.column_names and values_of(texts, "length") == values_of(data.train, "length")


def test_check_counts_unlabelled_texts_and_writes_nothing(nas, study, tmp_path):
    output, _ = nas("check", study, "--runs", tmp_path / "runs", "--json")
    plan = json.loads(output.splitlines()[-1])
    rows, counts = plan["rows"], plan["rows"]["unlabelled"]
    assert not (tmp_path / "runs").exists()
    assert counts["read"] == counts["kept"] + 3 and counts["in_test"] == 1
    lengths = rows["sets"]["unlabelled"]
    assert lengths["rows"] == lengths["tokenised"] == counts["kept"] and lengths["cut"] == 0
    assert lengths["longest"] == 17 and lengths["mean"] == pytest.approx(16, abs=0.1)
    assert f"{counts['kept']:,} of {counts['read']:,} unlabelled texts are new; left out: " in output
    assert [step["step"] for step in plan["steps"]][:3] == ["data", "unlabelled", "teacher"]
    assert "unlabelled" in nas("doctor", study)[0]


def test_check_warns_of_unknown_tokens_and_truncated_texts(run, study):
    _write(study.parent / "more.parquet", ["wie geht es", "w1 w2", " ".join(["w3"] * 40)])
    found = look_at_rows(run)
    assert found.unlabelled_unknown == pytest.approx(3 / (5 + 4 + 32))
    said = "\n".join(found.warnings)
    assert "7.3% of the tokens of unlabelled texts are unknown to the tokenizer" in said
    assert "33.3% of the unlabelled set; the longest text has 42 tokens" in said


def test_check_and_train_refuse_unlabelled_texts_with_the_same_messages(nas, study, tmp_path):
    messages = set()
    for change in (lambda path: path.unlink(), lambda path: Dataset.from_dict({"words": ["w1"]}).to_parquet(path)):
        change(study.parent / "more.parquet")
        for verb in ("check", "train"):
            _, error = nas(verb, study, "--runs", tmp_path / "runs", code=2)
            messages.add(error.splitlines()[-1])
    assert len(messages) == 2
    for words in ("no such data file", "no column 'text'"):
        assert any(words in message for message in messages)


def test_estimates_grow_with_the_number_and_the_length_of_unlabelled_texts(run):
    work = Workload(rows=1024, tokens=10.0, judged=100, operations=1e6, rate=1e9)
    more = Workload(1024, 10.0, 100, 1e6, 1e9, unlabelled=3072, unlabelled_tokens=30.0)
    steps = {step.name: step for step in steps_of(run) if hasattr(step, "seconds")}
    assert steps["supernet"].seconds(run.study, more) == pytest.approx(2.5 * steps["supernet"].seconds(run.study, work))
    assert steps["teacher"].seconds(run.study, more) == steps["teacher"].seconds(run.study, work)
    longer = steps["finalists"].seconds(run.study, more) / steps["finalists"].seconds(run.study, work)
    assert longer == pytest.approx(4 * 2.5), "an epoch has four times as many texts"


def test_splits_on_the_hub_and_local_files_can_be_combined(hub, tmp_path):
    fill_hub(hub, tmp_path / "uploaded")
    rows = {"train": make_rows(1200, 0), "test": make_rows(200, 1)}
    rows["unsupervised"] = Dataset.from_dict({"text": _new_rows(30)})
    files = {f"data/{name}-00000-of-00001.parquet": as_parquet(found) for name, found in rows.items()}
    hub.add("dataset", "someone/more", files)
    folder = tmp_path / "study"
    folder.mkdir()
    _write(folder / "more.parquet", ["w7 " * 14])
    text = HUB_STUDY.replace("someone/words", "someone/more")
    (folder / "study.toml").write_text(
        text.replace("max_length", 'unlabelled = ["unsupervised[:20]", "more.parquet"]\nmax_length')
    )
    run = Run.of(Study.load(folder), tmp_path / "runs")
    bring_up_to_date(run, steps_of(run), "unlabelled")
    assert unlabelled_counts(run).read == 21
    (folder / "study.toml").write_text(text.replace("max_length", 'unlabelled = ["none"]\nmax_length'))
    snapshots.forget()
    with pytest.raises(DataError, match="no split 'none'; use one of train, test, unsupervised"):
        bring_up_to_date(run := Run.of(Study.load(folder), tmp_path / "runs"), steps_of(run), "unlabelled")


def test_model_card_and_report_count_unlabelled_pairs(nas, tmp_path, simulated_times):
    study = write_pair_study(tmp_path)
    Dataset.from_parquet(str(tmp_path / "test.parquet"), keep_in_memory=True).remove_columns("label").to_parquet(
        tmp_path / "more.parquet"
    )
    for name in ("a.parquet", "b.parquet"):
        make_pairs(300, 9).remove_columns("label").to_parquet(tmp_path / name)
    study.write_text(
        PAIR_STUDY.replace(
            "max_length = 32", 'unlabelled = ["more.parquet", "a.parquet", "b.parquet"]\nmax_length = 32'
        ).replace("epochs = 4.0", "epochs = 0.5")
    )
    nas("run", study, "--runs", tmp_path / "runs")
    run = Run.of(Study.load(study), tmp_path / "runs")
    counts = unlabelled_counts(run)
    assert counts.in_test == 200 and counts.repeated == counts.kept > 290
    assert json.loads((run.export("only") / "verification.json").read_text())["unlabelled"]["kept"] == counts.kept
    for path in (run.export("only") / "README.md", run.folder / "report.html"):
        assert counts.summary() in path.read_text()
    training = distillation(run, Schedule(1e-3, 64, steps=1), tmp_path / "none", {})
    assert len(training.train) == len(splits(run).train) + counts.kept
