"""Tagging tasks: the tags of words are read, assigned to tokens and scored, and exports find the same spans."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import warnings
from types import SimpleNamespace

import multilingual
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from seqeval.metrics import f1_score
from tiny import (
    PAIR_STUDY,
    TAG_STUDY,
    WORDS,
    make_tagged,
    make_teacher,
    make_tokenizer,
    write_pair_study,
    write_tag_study,
)
from tolerance import assert_same
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from nas.data import read_splits, truth_of
from nas.data.batches import padding
from nas.data.truth import as_array
from nas.errors import DataError, StudyError, TeacherError
from nas.evaluate.spread import standard_error
from nas.export.infer import Classifier
from nas.files import read_json
from nas.model.tokenizer import load_tokenizer
from nas.pipeline import Run
from nas.pipeline.commands import prepare_data
from nas.pipeline.rows import look_at_rows
from nas.pipeline.teacher_checks import load_classifier
from nas.study import Study, Task
from nas.supernet.loops import LOG_FILE, FineTuning, Schedule
from nas.supernet.side_by_side import _weight, split
from nas.tasks import IGNORED, Head, LabelColumn, TagMetric, task_kind

KIND = task_kind("tagging")
NAMES = ("O", "B-x", "I-x", "B-y", "I-y")


def read(train, test=None, classes=None, head=None):
    return KIND.read(
        [LabelColumn("train.jsonl", "tags", train, classes)],
        [LabelColumn("test.jsonl", "tags", test or train, classes)],
        head,
    )


def test_tags_are_names_whole_numbers_or_numbers_with_declared_names():
    assert read([["O", " B-x"], [], ["I-x"]]).names == ("B-x", "I-x", "O")
    assert read([[10, 2], [2]]).names == ("2", "10")
    declared = read([[1, 2], [0]], classes=NAMES)
    assert declared.names == NAMES and declared.values["train"] == [[1, 2], [0]]
    known = read([[1, 2], [0]], head=Head("bert", ("O", "B-x", "I-x")))
    assert known.names == ("O", "B-x", "I-x") and known.values["train"] == [[1, 2], [0]]
    renamed = read([["O", "B-x"], ["I-x"]], head=Head("bert", ("I-x", "O", "B-y", "B-x")))
    assert renamed.values["train"] == [[1, 3], [0]] and "no row is labelled 'B-y'" in renamed.notes[0]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            [["O"], "O"],
            r"needs a list of tags in every row, but row 1 \(counted from 0\) holds 'O'; write a list with a",
        ),
        ([["O", None]], "the list in row 0 .* holds None"),
        ([["O"], ["B-x", -100]], "the list in row 1 .* holds -100, which marks ignored tokens; write one tag per word"),
        ([[0, 1], [-100, 0]], "the list in row 1 .* holds -100"),
        ([["O"], ["O"]], r"tagging needs 2 to 1000 classes, but found 1 \('O'\)"),
    ],
)
def test_invalid_lists_of_tags_are_refused(tags, message):
    with pytest.raises(DataError, match=message):
        read(tags)


def test_a_warning_counts_the_tags_that_break_iob2():
    found = read([["O", "I-x", "I-x"], ["B-y", "I-x", "I-y"], ["B-x", "I-x"]], [["B-x", "I-y"], ["O"]])
    assert found.notes == (
        "Warning: train.jsonl: column 'tags': 3 of 8 tags break IOB2, the first in row 0 (counted from 0), I-x after O"
        "; each of them begins a new span, as in seqeval",
        "Warning: test.jsonl: column 'tags': 1 of 3 tags break IOB2, the first in row 0 (counted from 0), I-y "
        "after B-x; each of them begins a new span, as in seqeval",
    )
    assert read([["NOUN", "VERB"], ["VERB"]]).notes == ()


@pytest.mark.parametrize("names", [("0", "1"), ("O", "S-x"), ("O", "ORG"), ("O", "B")])
def test_span_f1_needs_iob2_tags(names):
    asked = SimpleNamespace(metric="span_f1")
    with pytest.raises(DataError, match=r"span_f1 needs the tags O, B-<type> and I-<type> \(IOB2\), but there is"):
        KIND.metric(asked, names)
    assert KIND.metric(SimpleNamespace(metric="accuracy"), names).label == "accuracy of words"


def random_answers(tags, share=0.8, seed=0):
    """Return logits of a network that gives random tags to some of the words."""
    rng = np.random.default_rng(seed)
    drawn = np.where(rng.random(tags.shape) < share, np.maximum(tags, 0), rng.integers(0, len(NAMES), tags.shape))
    return np.eye(len(NAMES))[drawn] + rng.normal(0.0, 0.1, (*tags.shape, len(NAMES)))


def random_tags(texts=60, tokens=9, seed=1):
    """Return tag numbers of tokens. Tokens that do not begin a word, and padding after shorter texts, are `IGNORED`."""
    rng = np.random.default_rng(seed)
    tags = rng.choice(len(NAMES), (texts, tokens), p=(0.6, 0.15, 0.1, 0.1, 0.05))
    tags[rng.random(tags.shape) < 0.2] = IGNORED
    return np.where(np.arange(tokens) < rng.integers(2, tokens + 1, texts)[:, None], tags, IGNORED)


def test_metrics_agree_with_seqeval_on_the_words():
    labels = random_tags()
    logits = random_answers(labels)
    wanted = [[NAMES[tag] for tag in row if tag != IGNORED] for row in labels]
    given = [
        [NAMES[tag] for tag, own in zip(answered, row, strict=True) if own != IGNORED]
        for answered, row in zip(logits.argmax(-1), labels, strict=True)
    ]
    metric = TagMetric("span_f1", names=NAMES)
    assert metric.score(logits, labels) == f1_score(wanted, given)
    flat = [tag == own for row in zip(wanted, given, strict=True) for tag, own in zip(*row, strict=True)]
    assert TagMetric("accuracy", names=NAMES).score(logits, labels) == pytest.approx(np.mean(flat))
    for name in KIND.metrics:
        assert 0.0 < standard_error(TagMetric(name, names=NAMES), logits, labels) < 0.2


def test_an_inside_tag_that_continues_nothing_begins_a_span():
    """The default mode of seqeval, conlleval and the pipeline of transformers do the same."""
    metric, sure = TagMetric("span_f1", names=NAMES), np.eye(len(NAMES))
    labels, same = np.array([[1, 2, 0, 3]]), np.array([[2, 2, 0, 4]])
    assert metric.score(sure[same], labels) == 1.0
    assert metric.score(sure[np.array([[1, 1, 0, 3]])], labels) == pytest.approx(2 * 1 / (3 + 2))


def test_numbers_are_reported_per_span_type_or_per_tag():
    labels = random_tags()
    logits = random_answers(labels)
    found = TagMetric("span_f1", names=NAMES).by_label(logits, labels, NAMES)
    assert set(found) == {"x", "y"} and found["x"]["spans"] > found["y"]["spans"] > 0
    assert set(found["x"]) == {"precision", "recall", "f1", "spans"}
    pieces = ("DET", "NOUN", "VERB", "ADJ", "ADV")
    of_tags = TagMetric("accuracy", names=pieces).by_label(logits, labels, pieces)
    assert set(of_tags) == set(pieces)
    assert sum(own["words"] for own in of_tags.values()) == (labels != IGNORED).sum()


def test_answers_depend_only_on_the_first_tokens_of_words():
    labels = random_tags()
    logits = random_answers(labels)
    other = np.where((labels == IGNORED)[..., None], -logits, logits)
    metric = TagMetric("span_f1", names=NAMES)
    assert np.array_equal(metric.answers(logits, labels), metric.answers(other, labels))


def write_rows(folder, words, tags):
    feature = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=list(NAMES)))})
    for name, count in (("train", 40), ("test", 8)):
        rows = {"tokens": [[*words, f"w{number}"] for number in range(count)], "tags": [[*tags, 0]] * count}
        if name == "test":
            rows["tokens"] = [[*own, "w59"] for own in rows["tokens"]]
            rows["tags"] = [[*own, 0] for own in rows["tags"]]
        Dataset.from_dict(rows, features=feature).to_parquet(folder / f"{name}.parquet")
    return Task(train="train.parquet", test="test.parquet", text=("tokens",), label="tags", kind="tagging",
                metric="span_f1", holdout={"size": 10})  # fmt: skip


def splits_of(folder, task):
    return read_splits(task, *(str(folder / f"{name}.parquet") for name in ("train", "test")), 0)


def test_the_first_token_of_a_word_has_its_tag(tmp_path):
    """The text has words of several tokens, a word without tokens, and words that are cut off."""
    task = write_rows(tmp_path, ["w1-w2", " ", "w3", "w4,w5"], [1, 2, 2, 3])
    data = splits_of(tmp_path, task).encode(make_tokenizer(), 32)
    assert data.label_names == NAMES
    row = data.test[0]
    assert row["labels"] == [IGNORED, 1, IGNORED, IGNORED, 2, 3, IGNORED, IGNORED, 0, 0, IGNORED]
    assert len(row["labels"]) == len(row["input_ids"]) == row["length"]
    cut = splits_of(tmp_path, task).encode(make_tokenizer(), 6)
    assert cut.test[0]["labels"] == [IGNORED, 1, IGNORED, IGNORED, 2, IGNORED]
    assert truth_of(data.test).shape == (8, 11)


def test_a_row_must_have_a_tag_for_each_word(tmp_path):
    task = write_rows(tmp_path, ["w1", "w2"], [1])
    with pytest.raises(
        DataError, match=r"train.parquet: row 0 .* column 'tokens' has 3 words and column 'tags' has 2 tags"
    ):
        splits_of(tmp_path, task)


def test_texts_that_are_not_lists_of_words_are_refused(tmp_path):
    task = write_rows(tmp_path, ["w1"], [1])
    for name in ("train", "test"):
        rows = Dataset.from_parquet(str(tmp_path / f"{name}.parquet"), keep_in_memory=True)
        texts = [" ".join(words) for words in rows["tokens"]]
        rows.remove_columns("tokens").add_column("tokens", texts).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"'tokens' must hold lists of words, but row 0 holds 'w1 w0'.*write lists"):
        splits_of(tmp_path, task)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"span_f1"', '"f1"', "'f1' is not a metric of tagging; use one of span_f1, accuracy"),
        (
            '["words"]',
            '["words", "more"]',
            "text: tagging needs one column with lists of words, but got .'words', 'more'",
        ),
        ("max_length", 'label = ["a", "b"]\nmax_length', "label"),
        ("max_length", "threshold = 0.4\nmax_length", "threshold: must not be set if the kind is tagging"),
        (
            "[teacher]",
            '[student]\nmodel = "./teacher"\n\n[teacher]',
            "student: a task of kind 'tagging' cannot have a student, because another tokenizer may split words",
        ),
    ],
)
def test_settings_that_do_not_suit_tagging_are_refused(tmp_path, old, new, message):
    study = write_tag_study(tmp_path)
    text = TAG_STUDY.replace(old, new)
    study.write_text(text.replace('label = "tags"\n', "") if "label =" in new else text)
    with pytest.raises(StudyError, match=message):
        Study.load(study)


def test_a_new_classifier_starts_with_the_shares_of_the_tags(tmp_path):
    study = write_tag_study(tmp_path)
    run = Run.of(Study.load(study), tmp_path / "runs")
    data = prepare_data(run)
    model, _ = load_classifier(run.study, str(tmp_path / "teacher"), data)
    tags = truth_of(data.train)
    shares = np.bincount(tags[tags != IGNORED]) / (tags != IGNORED).sum()
    assert model.classifier.bias.softmax(-1).tolist() == pytest.approx(shares.tolist(), abs=0.01)


def test_a_text_classifier_is_refused_as_a_teacher(tmp_path):
    study = write_tag_study(tmp_path)
    study.write_text(TAG_STUDY.replace("fine_tune", "# fine_tune"))
    make_teacher(outputs=4, vocab_size=64).save_pretrained(tmp_path / "teacher")
    with pytest.raises(TeacherError, match="it is not a fine-tuned classifier"):
        prepare_data(Run.of(Study.load(study), tmp_path / "runs"))


def test_the_losses_of_the_parts_of_a_batch_add_up_to_that_of_the_batch():
    """The loss is a mean over words, and the texts of one part may have more words than those of the other."""
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(make_teacher(outputs=5).config).eval()
    lengths = [3, 4, 4, 12, 15, 15]
    rows = [{"input_ids": [2, *[5] * (n - 2), 3], "labels": [IGNORED, *[1] * (n - 2), IGNORED]} for n in lengths]
    batch = dict(padding(make_tokenizer(), True)(rows))
    whole = model(**batch).loss
    parts = sum(_weight(part, batch, share) * model(**part).loss for part, share in split(batch, 2))
    assert_same(parts, whole)


def test_fine_tuning_ignores_parts_of_a_batch_and_whole_batches_without_any_word(tmp_path):
    """The first batch has four long texts and, in the second thread, four empty ones. The second batch has no word."""
    model = AutoModelForTokenClassification.from_config(make_teacher(outputs=5).config)
    rows = [[2, *[5] * 30, 3]] * 4 + [[2, 3]] * 12
    labels = [[IGNORED, *[1] * (len(row) - 2), IGNORED] for row in rows]
    train = Dataset.from_dict({"input_ids": rows, "labels": labels, "length": list(map(len, rows))})
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        FineTuning(train, make_tokenizer(), Schedule(1e-3, 8), tmp_path / "run", 0, {}, labels_are_per_token=True).tune(
            model
        )
    finally:
        torch.set_num_threads(threads)
    *_, summary = read_json(tmp_path / "run" / LOG_FILE, TeacherError)
    assert summary["step"] == 2 and 0.0 < summary["train_loss"] < 5.0


@pytest.mark.parametrize("make", [multilingual.roberta, multilingual.modernbert], ids=["roberta", "modernbert"])
def test_a_byte_level_tokenizer_gives_words_and_their_text_the_same_tokens(make, tmp_path):
    """The class of RoBERTa's tokenizers has the setting `add_prefix_space`. That of ModernBERT's ignores it."""
    make(["w1 w23 , w4", "word words , two"], 400).save_pretrained(tmp_path / "teacher")
    alone = load_tokenizer(tmp_path / "teacher")
    of_words = load_tokenizer(tmp_path / "teacher", of_words=True)
    words = ["w1", "w23", ",", "w4"]
    assert alone([words], is_split_into_words=True)["input_ids"] != alone([" ".join(words)])["input_ids"]
    assert of_words([words], is_split_into_words=True)["input_ids"] == of_words([" ".join(words)])["input_ids"]
    of_words.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again([words], is_split_into_words=True)["input_ids"] == of_words([" ".join(words)])["input_ids"]


def test_nas_check_counts_tags_and_words_that_are_left_out(tmp_path, nas):
    study = write_tag_study(tmp_path)
    study.write_text(TAG_STUDY.replace("max_length = 32", "max_length = 8"))
    found = look_at_rows(Run.of(Study.load(study), tmp_path / "runs"))
    rows = make_tagged(200, 1)
    assert found.classes["B-high"]["test"] == sum(tags.count("B-high") for tags in rows["tags"])
    test = found.sets["test"]
    assert test.words == sum(map(len, rows["words"])) and 0 < test.words_left_out < test.words / 2
    printed, _ = nas("check", study, "--runs", tmp_path / "runs")
    assert f"{test.words:,} in the test set (" in printed
    assert "are truncated or have no token" in printed and "standard error of span F1" in printed


def init(folder, nas, *arguments, code=0):
    rows = ("--teacher", folder / "teacher", "--train", folder / "train.parquet", "--test", folder / "test.parquet")
    return nas("init", folder / "mine", *rows, *arguments, code=code)


def test_nas_init_proposes_tagging_for_columns_of_words_and_tags(tmp_path, nas):
    write_tag_study(tmp_path)
    printed, _ = init(tmp_path, nas)
    assert "text: words; label: tags (4 tags: B-high, B-low, I-low, O)" in printed
    task = Study.load(tmp_path / "mine").task
    assert (task.kind, task.metric, task.text, task.label) == ("tagging", "span_f1", ("words",), "tags")
    assert Study.load(tmp_path / "mine").teacher.fine_tune is not None


def test_nas_init_keeps_a_tagging_teacher_and_needs_options_for_ambiguous_columns(tmp_path, nas):
    write_tag_study(tmp_path)
    config = make_teacher(outputs=4, vocab_size=64).config
    config.id2label = dict(enumerate(("O", "B-low", "I-low", "B-high")))
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path / "teacher")
    init(tmp_path, nas)
    assert Study.load(tmp_path / "mine").teacher.fine_tune is None
    (tmp_path / "mine" / "study.toml").unlink()
    for name in ("train", "test"):
        rows = Dataset.from_parquet(str(tmp_path / f"{name}.parquet"), keep_in_memory=True)
        texts = [" ".join(words) for words in rows["words"]]
        rows = rows.add_column("text", texts).add_column("parts", [["A", *["B"] * (len(w) - 1)] for w in rows["words"]])
        rows.to_parquet(tmp_path / f"{name}.parquet")
    _, error = init(tmp_path, nas, code=2)
    assert "several columns hold tags of words: give --label with one of tags, parts" in error
    _, error = init(tmp_path, nas, "--text", "text", "--label", "tags", code=2)
    assert "--text text: must be a column of lists with a word for each tag of 'tags'; use 'words'" in error
    _, error = init(tmp_path, nas, "--label", "tags", "--kind", "multi_label", code=2)
    assert "--label tags: a task of kind multi_label cannot have lists of tags" in error
    init(tmp_path, nas, "--label", "tags")


def spans_of(serve, text):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
        found = serve(text, aggregation_strategy="first")
    return [(span["entity_group"], span["start"], span["end"], float(span["score"])) for span in found]


def check_same_spans(folder, texts):
    """Check that `infer.py` and the pipeline of transformers find the same spans; return their number."""
    serve, classifier = pipeline("token-classification", model=str(folder), trust_remote_code=True), Classifier(folder)
    count = 0
    for text in texts:
        expected, found = spans_of(serve, text), classifier.spans(text)
        assert [tuple(span)[:3] for span in found] == [span[:3] for span in expected], text
        assert [span.score for span in found] == pytest.approx([span[3] for span in expected], abs=0.02)
        count += len(found)
    return count


def odd_texts(count=40):
    rng = random.Random(0)
    pieces = [*WORDS, "-", ",", " ", "  ", "\u00e9", "e\u0301", "\u65e5", "\u200b", "\U0001f600", "unknown", "."]
    return ["", *("".join(rng.choice(pieces) + rng.choice([" ", ""]) for _ in range(12)) for _ in range(count))]


@pytest.mark.slow
def test_an_export_finds_the_same_spans_in_the_pipeline_and_in_infer(tmp_path, nas, simulated_times):
    study = write_tag_study(tmp_path)
    nas("run", study, "--runs", tmp_path / "runs")
    run = Run.of(Study.load(study), tmp_path / "runs")
    folder = run.export("only")
    found, config = (read_json(folder / name, DataError) for name in ("verification.json", "config.json"))
    assert config["architectures"][0].endswith("ForTokenClassification") and set(config["label2id"]) == {
        "O", "B-low", "I-low", "B-high"
    }  # fmt: skip
    assert found["metric"] == "span F1" and found["accuracy"] > 0.7 and found["agreement_with_hugging_face"] > 0.98
    assert set(found["labels"]) == {"low", "high"} and 0.002 < found["accuracy_standard_error"] < 0.05
    assert not (run.folder / "baselines" / "cpu" / "static").exists()
    assert check_same_spans(folder, odd_texts()) > 10
    command = [sys.executable, str(folder / "infer.py"), "w30 w1 w12 w40", "w30"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, *others = done.stdout.split("\n")
    spans = Classifier(folder).spans("w30 w1 w12 w40")
    assert first == "\t".join(f"{span.type}\t{span.start}\t{span.end}\t{span.score:.4f}" for span in spans)
    assert spans[0][:2] == ("low", 4) and others == ["", ""]
    page, card = (run.folder / "report.html").read_text(), (folder / "README.md").read_text()
    assert "F1 per label" in page and ">high<" in page and ">spans<" in page
    assert "Tags texts word by word to find spans of high or low" in card and 'aggregation_strategy="first"' in card
    assert "pipeline_tag: token-classification" in card


@pytest.mark.slow
def test_an_export_of_a_roberta_finds_the_same_spans_in_the_pipeline_and_in_infer(tmp_path, nas, simulated_times):
    """Its tokens begin with spaces, so the pipeline treats everything between two spaces as a word."""
    write_pair_study(tmp_path)
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(config | {"architectures": ["RobertaModel"]}))
    for name, count, seed in (("train", 600, 0), ("test", 100, 1)):
        make_tagged(count, seed).to_parquet(tmp_path / f"{name}.parquet")
    assert PAIR_STUDY != TAG_STUDY
    (tmp_path / "study.toml").write_text(TAG_STUDY)
    nas("run", tmp_path / "study.toml", "--runs", tmp_path / "runs")
    run = Run.of(Study.load(tmp_path / "study.toml"), tmp_path / "runs")
    check_same_spans(run.export("only"), odd_texts())


def test_rows_of_several_lengths_are_padded_to_an_array():
    assert as_array([[1, 2], [3], []]).tolist() == [[1, 2], [3, IGNORED], [IGNORED, IGNORED]]
    assert as_array([0.5, 1.0]).tolist() == [0.5, 1.0] and as_array([[1.0, 0.0]]).dtype == np.float64
