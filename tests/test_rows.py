"""`nas check` and `nas doctor` count rows, warn about problems, and refuse what training would refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from tiny import PAIR_STUDY, TINY_STUDY, make_pairs, make_rows, make_tokenizer, write_pair_study

from nas.pipeline import rows as module
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.rows import expected_error, look_at_rows
from nas.pipeline.run import Run
from nas.pipeline.sources import teacher_source
from nas.study import Study
from nas.tasks import ClassMetric, Correlation

SMALL = TINY_STUDY.replace("max_length = 32", "max_length = 8").replace("size = 200", "size = 3")


def _words(*numbers):
    return " ".join(f"w{number}" for number in numbers)


# 2 of the 8 tokens are special tokens, so texts of more than 6 words are truncated.
TRAIN = [
    *((_words(number, 1), "no") for number in range(10, 18)),
    *((_words(number, 2), "yes") for number in range(10, 14)),
    ("W10   w1", "no"),  # the same text again
    ("w10 w1", "yes"),  # the same text with another label
    (_words(*range(6)), "no"),  # the longest text that is not truncated
    (_words(*range(9)), "no"),
    (_words(*range(20)), "yes"),
    ("huh w1 w3 w4", "no"),  # an unknown word
    ("w50 w51", "yes"),
    ("w50  W51", "yes"),  # both are in the test set
]
TEST = [("w50 w51", "yes"), (_words(*range(30, 41)), "yes")]


def _write(folder, train=TRAIN, test=TEST, study=SMALL):
    for name, rows in (("train", train), ("test", test)):
        Dataset.from_list([{"text": text, "label": label} for text, label in rows]).to_parquet(
            folder / f"{name}.parquet"
        )
    (folder / "study.toml").write_text(study)
    return Run.of(Study.load(folder), folder / "runs")


def test_the_numbers_of_a_small_data_set_are_exact(tiny_study):
    run = _write(tiny_study.parent)
    found = look_at_rows(run)
    sets = found.sets
    assert {name: lengths.rows for name, lengths in sets.items()} == {
        "train": 18 - sets["search"].rows, "search": sets["search"].rows, "test": 2,
    }  # fmt: skip
    assert 3 <= sets["search"].rows <= 5  # rows with the same text stay in one set
    assert sets["train"].cut + sets["search"].cut == 2 and max(sets["train"].longest, sets["search"].longest) == 22
    assert (sets["test"].cut, sets["test"].longest, sets["test"].mean, sets["test"].tokenised) == (1, 13, 6.0, 2)
    assert (found.in_test, found.repeated, found.contradicted) == (2, 2, 1)
    totals = {label: counts["train"] + counts["search"] for label, counts in found.classes.items()}
    assert totals == {"no": 12, "yes": 6}
    assert {label: counts["test"] for label, counts in found.classes.items()} == {"no": 0, "yes": 2}
    assert found.targets is None and found.judged == sets["search"].rows and found.metric == "accuracy"
    by_size = {3: 0.17320508075688773, 4: 0.15, 5: 0.1341640786499874}  # of a share of 0.9
    assert found.standard_error == pytest.approx(by_size[found.judged], rel=1e-12)
    assert not run.folder.exists()


def test_a_message_says_that_the_code_of_a_tokenizer_is_not_run(tiny_study, capsys):
    run = _write(tiny_study.parent)
    path = Path(teacher_source(run)) / "tokenizer_config.json"
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | {"auto_map": {"AutoTokenizer": ["own.Slow", "own.Fast"]}}))
    look_at_rows(run)
    words = "Teacher: the custom code of its tokenizer (own.Fast) is not run; its tokenizer.json"
    assert capsys.readouterr().err.count(words) == 1


def test_the_share_of_a_token_is_zero_if_there_are_no_tokens():
    """Empty texts have no tokens if the tokenizer adds no special tokens."""
    assert module._token_share(np.bincount(np.zeros(0, np.int64), minlength=1), 1) == 0.0
    assert module._token_share(np.bincount([0, 1, 1, 5]), 1) == 0.5
    assert module._token_share(np.bincount([0, 2]), 9) == 0.0


def test_lengths_and_classes_match_the_data_that_the_training_reads(tiny_study):
    run = _write(tiny_study.parent)
    found, data = look_at_rows(run), prepare_teacher(run)
    assert found == look_at_rows(run)
    for name, split in data.splits.items():
        assert found.sets[name].rows == len(split)
        assert found.sets[name].mean == pytest.approx(np.mean(split["length"]), rel=1e-12)
        assert [counts[name] for counts in found.classes.values()] == np.bincount(split["labels"], minlength=2).tolist()
    ids = [token for row in data.train["input_ids"] for token in row]
    assert found.unknown == pytest.approx(ids.count(1) / len(ids), rel=1e-12)


def test_warnings_name_truncated_repeated_and_contradictory_rows_and_rare_classes(tiny_study):
    said = "\n".join(look_at_rows(_write(tiny_study.parent)).warnings)
    for words in (
        "texts are truncated at task.max_length = 8: ",
        "50.0% of the test set; the longest text has 22 tokens",
        "2 training rows have the text of a test row and are not trained on",
        "1 training row has the text of an earlier row but a different label",
        "the test set has no row labelled 'no'",
        "labels with fewer than 10 training rows, too few to learn from: ",
        "standard error of",
    ):
        assert words in said
    assert "unknown" not in said and "no embedding" not in said


def test_a_sound_data_set_only_gets_a_warning_about_a_small_search_set(tiny_study):
    run = Run.of(Study.load(tiny_study), tiny_study.parent / "runs")
    found = look_at_rows(run)
    kept = found.sets["train"].rows + found.sets["search"].rows
    assert kept + found.in_test == 1200 and found.sets["search"].rows == found.judged
    assert [warning.split(",")[0] for warning in found.warnings] == [
        f"candidates are evaluated on {found.judged} texts of the search set"
    ]
    larger = run.study.task.model_copy(update={"holdout": run.study.task.holdout.model_copy(update={"size": 1000})})
    found = look_at_rows(Run(run.study.model_copy(update={"task": larger}), run.folder))
    assert found.warnings == () and found.standard_error == pytest.approx(0.3 / math.sqrt(found.judged))


def test_the_number_of_texts_for_candidates_follows_the_search_settings(tiny_study, nas):
    chosen = "[search]\nexamples = 50\nleast_tokens = 9\n"
    tiny_study.write_text(TINY_STUDY.replace("[search]\n", chosen))
    assert look_at_rows(Run.of(Study.load(tiny_study), tiny_study.parent / "runs")).judged == 50
    tiny_study.write_text(TINY_STUDY.replace("[search]\n", "[search]\nleast_tokens = 15\n"))
    _, error = nas("check", tiny_study, code=2)
    assert "no text of the search set has 15 or more tokens (the longest has 14)" in error


def test_only_a_fixed_sample_of_many_texts_is_tokenised(tiny_study, monkeypatch, nas):
    monkeypatch.setattr(module, "_MAX_CHARACTERS", 5000)
    run = Run.of(Study.load(tiny_study), tiny_study.parent / "runs")
    found = look_at_rows(run)
    assert found == look_at_rows(run)
    assert found.sets["search"].tokenised == found.sets["search"].rows and found.sets["train"].rows > 900
    assert 100 < found.sets["train"].tokenised < 400
    output, _ = nas("check", tiny_study)
    assert f"0 of a sample of {found.sets['train'].tokenised}" in output


def test_the_range_mean_and_deviation_of_regression_targets_are_reported(tmp_path):
    study = write_pair_study(tmp_path)
    study.write_text(PAIR_STUDY)
    labels = [0.0, 1.0, 2.0, 5.0] * 10
    pairs = make_pairs(40, 0).remove_columns("label").add_column("label", labels)
    pairs.to_parquet(tmp_path / "train.parquet")
    study.write_text(PAIR_STUDY.replace("size = 200", "size = 10"))
    found = look_at_rows(Run.of(Study.load(study), tmp_path / "runs"))
    assert (found.targets.least, found.targets.most) == (0.0, 5.0) and found.classes == {}
    assert 1.0 < found.targets.mean < 3.0 and 1.0 < found.targets.deviation < 3.0
    assert found.metric == "spearman" and found.sets["train"].mean > 5


def test_expected_standard_errors_agree_with_theory():
    labels = np.random.default_rng(1).integers(0, 2, 4000)
    assert expected_error(ClassMetric("accuracy"), labels, 2) == pytest.approx(0.004743416490252569, rel=1e-12)
    # For two balanced classes the correlation of Matthews is 2 * accuracy - 1.
    assert expected_error(ClassMetric("matthews_correlation"), labels, 2) == pytest.approx(
        2 * math.sqrt(0.09 / 4000), rel=0.2
    )
    targets = np.random.default_rng(2).standard_normal(4000)
    assert expected_error(Correlation("pearson"), targets, 1) == pytest.approx((1 - 0.81) / math.sqrt(4000), rel=0.2)


def test_unused_tokens_without_an_embedding_are_named_but_cause_no_warning(tiny_study):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<laugh>"])
    tokenizer.save_pretrained(tiny_study.parent / "teacher")
    found = look_at_rows(Run.of(Study.load(tiny_study), tiny_study.parent / "runs"))
    assert found.without_embedding == ("<laugh>",) and len(found.warnings) == 1


def _rename(column):
    def change(folder):
        for name in ("train", "test"):
            path = folder / f"{name}.parquet"
            rows = Dataset.from_parquet(str(path), keep_in_memory=True)
            rows.rename_column(column, "other").to_parquet(path)

    return change


def _relabel(name, number, label):
    def change(folder):
        path = folder / f"{name}.parquet"
        rows = Dataset.from_parquet(str(path), keep_in_memory=True).to_list()
        rows[number]["label"] = label
        Dataset.from_list(rows).to_parquet(path)

    return change


def _three_classes(folder):
    rows = [row | {"label": number % 3} for number, row in enumerate(make_rows(1200, 0).to_list())]
    Dataset.from_list(rows).to_parquet(folder / "train.parquet")


def _unknown_token(folder):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<laugh>"])
    tokenizer.save_pretrained(folder / "teacher")
    path = folder / "test.parquet"
    rows = Dataset.from_parquet(str(path), keep_in_memory=True).to_list()
    Dataset.from_list([*rows, {"text": "w1 <laugh>", "label": 1}]).to_parquet(path)


REFUSED = {
    "a token without an embedding": (
        _unknown_token,
        "uses the token '<laugh>', number 64, but the model has embeddings",
    ),
    "no text column": (_rename("text"), "no column 'text'; use one of"),
    "no label column": (_rename("label"), "no column 'label'; use one of"),
    "a class that the teacher does not have": (_three_classes, "has 2 labels, but the data has 3 labels"),
    "a class that only the test set has": (_relabel("test", 3, 7), "label 7 is not a class of"),
    "a row without a label": (_relabel("train", 5, None), "row 5 (counted from 0) has no label"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_check_and_doctor_refuse_what_train_would_refuse(nas, tiny_study, change, words):
    fine_tuned = "fine_tune = { epochs = 2.0, learning_rate = 2e-3 }\n"
    tiny_study.write_text(TINY_STUDY.replace(fine_tuned, ""))
    change(tiny_study.parent)
    runs = tiny_study.parent / "runs"
    messages = {}
    for verb in ("check", "train"):
        _, error = nas(verb, tiny_study, "--runs", runs, code=2)
        messages[verb] = error.splitlines()[-1]
        assert words in messages[verb]
        assert verb == "train" or not runs.exists()
    assert messages["check"] == messages["train"]
    output, _ = nas("doctor", tiny_study, "--json", code=2)
    findings = json.loads(output.splitlines()[-1])
    assert findings["missing"] == ["rows"]


def test_check_prints_the_numbers_of_rows_and_returns_them_as_json(nas, tiny_study):
    output, _ = nas("check", tiny_study, "--runs", tiny_study.parent / "runs", "--json")
    rows = json.loads(output.splitlines()[-1])["rows"]
    assert rows["sets"]["test"]["rows"] == 200 and rows["assumed"] == 0.9
    assert "classes: 2; in the training set: '0' " in output and "standard error of accuracy" in output
    assert "warning: candidates are evaluated on" in output


def test_check_says_that_the_rows_of_the_built_in_task_are_not_known_yet(nas):
    output, _ = nas("check", "quickstart", "--json")
    assert json.loads(output.splitlines()[-1])["rows"] is None
    assert "rows: not known yet, because the data of the built-in task is generated by nas train" in output


def test_vocabulary_pruning_is_refused_for_a_tokenizer_that_cannot_be_pruned(nas, tiny_study):
    path = tiny_study.parent / "teacher" / "tokenizer.json"
    parts = json.loads(path.read_text())
    model = {"type": "WordLevel", "vocab": parts["model"]["vocab"], "unk_token": "[UNK]"}
    path.write_text(json.dumps(parts | {"model": model}))
    tiny_study.write_text(TINY_STUDY.replace('model = "./teacher"', 'model = "./teacher"\nprune_vocabulary = true'))
    _, error = nas("check", tiny_study, code=2)
    assert "teacher.prune_vocabulary: needs a WordPiece, BPE or Unigram tokenizer, but got WordLevel; remove" in error
