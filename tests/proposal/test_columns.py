"""Detection of text columns, label column and kind of task, in layouts of well-known data sets and in unusual ones."""

from __future__ import annotations

import datetime
import random
from itertools import count

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from nas.proposal import Clear, Column, Columns, Unclear, labels

ROWS = 240
RNG = random.Random(0)
WORDS = ["the", "film", "was", "a", "very", "good", "one", "and", "I", "liked", "it", "with", "some", "bad", "jokes"]


def text(words: int = 9, end: str = ".") -> str:
    return " ".join(RNG.choices(WORDS, k=words)) + end


def unspaced(characters: str, length: int = 14) -> str:
    return "".join(RNG.choices(characters, k=length))


CHINESE, JAPANESE = "这部电影很好看我不喜欢他演的角色真是太差了", "この映画はとても面白いですが少し長いと思いました"
THAI = "อร่อยมากบริการดีแต่ราคาแพงไปหน่อยครับ"
PREMISES = [text(12) for _ in range(ROWS)]
NLI, CLASSES = ["entailment", "neutral", "contradiction"], "classification"

# For each layout: a function that makes a row by its number, then the expected text columns, label column and kind of
# task. If one of these must be unclear, its place holds a part of the reason.
LAYOUTS = {
    "IMDB": (lambda i: {"text": text(60), "label": i * 2 // ROWS}, ["text"], "label", CLASSES),
    "SST-2": (lambda i: {"idx": i, "sentence": text(5), "label": i % 2}, ["sentence"], "label", CLASSES),
    "MNLI": (
        lambda i: {
            "annotator_labels": ["neutral"],
            "genre": ["fiction", "travel"][i % 2],
            "gold_label": NLI[i % 3],
            "pairID": f"{i}e",
            "promptID": str(i // 3),
            "sentence1": PREMISES[i // 3],
            "sentence1_binary_parse": f"( ( {text(4)} ) x )",
            "sentence1_parse": f"(ROOT (S {text(3)}))",
            "sentence2": text(7),
            "sentence2_binary_parse": f"( ( {text(4)} ) )",
            "sentence2_parse": f"(ROOT {text(4)})",
        },
        ["sentence1", "sentence2"],
        "gold_label",
        CLASSES,
    ),
    "SNLI with explanations": (
        lambda i: {"hypothesis": text(6), "explanation_1": text(), "premise": PREMISES[i // 3], "label": i % 3},
        ["premise", "hypothesis"],
        "label",
        CLASSES,
    ),
    "SNLI with rows that have no label": (
        lambda i: {"premise": PREMISES[i // 3], "hypothesis": text(), "label": [*NLI, "-"][i % 3 if i % 20 else 3]},
        ["premise", "hypothesis"],
        "label",
        "holds '-' in 12 rows",
    ),
    "QQP": (
        lambda i: {
            "id": i,
            "qid1": 2 * i,
            "qid2": 2 * i + 1,
            "question1": text(8),
            "question2": text(8),
            "is_duplicate": i % 2,
        },
        ["question1", "question2"],
        "is_duplicate",
        CLASSES,
    ),
    "MRPC": (
        lambda i: {"Quality": i % 2, "#1 ID": 3 * i, "#2 ID": 3 * i + 1, "#1 String": text(), "#2 String": text()},
        ["#1 String", "#2 String"],
        "Quality",
        CLASSES,
    ),
    "QNLI": (
        lambda i: {"index": i, "question": text(8, "?"), "sentence": text(20), "label": NLI[i % 2]},
        ["question", "sentence"],
        "label",
        CLASSES,
    ),
    "BoolQ": (
        lambda i: {"question": text(8), "passage": text(60), "answer": bool(i % 3)},
        ["question", "passage"],
        "answer",
        CLASSES,
    ),
    "CoLA": (
        lambda i: {"source": ["gj04", "bc01"][i % 2], "label": int(i % 3 > 0), "mark": "", "sentence": text(7)},
        ["sentence"],
        "label",
        CLASSES,
    ),
    "STS-B": (
        lambda i: {"idx": i, "score": (i * 7 % 51) / 10, "sentence1": text(8), "sentence2": text(8)},
        ["sentence1", "sentence2"],
        "score",
        "regression",
    ),
    "SICK": (
        lambda i: {
            "pair_ID": i,
            "sentence_A": text(7),
            "sentence_B": text(7),
            "relatedness_score": 1 + i % 41 / 10,
            "entailment_judgment": NLI[i % 3],
        },
        ["sentence_A", "sentence_B"],
        "several columns may be the label",
        None,
    ),
    "Amazon reviews": (
        lambda i: {"stars": i % 5 + 1, "title": text(4), "body": text(30)},
        "several columns look like texts",
        "stars",
        "column stars holds 5 different numbers from 1 to 5: classes or a scale?",
    ),
    "tweets": (
        lambda i: {
            "target": 4 * (i % 2),
            "ids": 1467810000 + i * 37,
            "date": f"Mon Apr {i % 28 + 1:02d} 22:19:{i % 60:02d} PDT 2009",
            "flag": "NO_QUERY",
            "user": f"user{i // 2}",
            "text": text(10),
        },
        ["text"],
        "target",
        CLASSES,
    ),
    "toxic comments": (
        lambda i: {"id": f"{i * 7919:016x}", "comment_text": text(), "toxic": i % 2, "insult": int(i % 9 == 0)},
        ["comment_text"],
        "several columns may be the label",
        None,
    ),
    "news": (
        lambda i: {
            "url": f"https://www.site.com/{i}/a-story",
            "title": text(8),
            "date": f"2024-03-{i % 28 + 1:02d}",
            "category": ["Sport", "World", "Home & Living"][i % 3],
        },
        ["title"],
        "category",
        CLASSES,
    ),
    "AG News": (
        lambda i: {"Class Index": i % 4 + 1, "Title": text(7), "Description": text(20)},
        "several columns look like texts",
        "Class Index",
        CLASSES,
    ),
    "products": (
        lambda i: {"sku": f"A-{i:05d}", "name": text(4), "description": text(), "price": 9.99 + i % 80, "brand": "B"},
        "several columns look like texts",
        "price",
        "regression",
    ),
    "chnsenticorp": (lambda i: {"label": i % 2, "review": unspaced(CHINESE)}, ["review"], "label", CLASSES),
    "Chinese with the site of each text": (
        lambda i: {"text": unspaced(CHINESE), "source": f"site {i}", "label": i % 2},
        ["text"],
        "label",
        CLASSES,
    ),
    "JNLI": (
        lambda i: {"pair_id": i, "sentence1": unspaced(JAPANESE), "sentence2": unspaced(JAPANESE), "label": NLI[i % 3]},
        ["sentence1", "sentence2"],
        "label",
        CLASSES,
    ),
    "Wisesight": (
        lambda i: {"texts": unspaced(THAI, 30), "category": ["pos", "neu", "neg", "q"][i % 4]},
        ["texts"],
        "category",
        CLASSES,
    ),
    "capitals": (lambda i: {"TEXT": text(), "Score": i % 10 / 10, "LABEL": "AB"[i % 2]}, ["TEXT"], "LABEL", CLASSES),
    "numbers and names of the same classes": (
        lambda i: {"text": text(), "label_text": ["neg", "neu", "pos"][i % 3], "label": i % 3},
        ["text"],
        "label",
        CLASSES,
    ),
    "spam": (lambda i: {"v1": ["ham", "spam"][i % 2], "v2": text(), "Unnamed: 2": None}, ["v2"], "v1", CLASSES),
    "intents": (
        lambda i: {"text": text(), "category": [f"card_{number}" for number in range(77)][i % 77]},
        ["text"],
        "category",
        CLASSES,
    ),
    "stance": (
        lambda i: {"Tweet": text(), "Target": ["Hillary Clinton", "Atheism"][i % 2], "Stance": NLI[i % 3]},
        ["Tweet"],
        "several columns may be the label",
        None,
    ),
    "metadata about a text": (
        lambda i: {
            "author": f"Given{i} Name{i}",
            "created": f"March {i % 28 + 1}, 2024 at 5 pm",
            "seen": datetime.datetime(2024, 3, 1, i % 24, tzinfo=datetime.UTC),
            "file": f"photo number {i}.jpg",
            "mail": f"a{i}@b.org",
            "digest": f"{i * 7919:032x}",
            "text": text(),
            "label": i % 2,
        },
        ["text"],
        "label",
        CLASSES,
    ),
    "a comment in addition to the text": (
        lambda i: {"text": text(), "comment": text(), "label": i % 2},
        "several columns look like texts",
        "label",
        CLASSES,
    ),
    "authors in a column with an unknown name": (
        lambda i: {"text": text(), "wer": f"Given{i} Name{i}", "label": i % 2},
        "several columns look like texts",
        "label",
        CLASSES,
    ),
    "texts of single words": (
        lambda i: {"text": f"{RNG.choice(WORDS)}{i}", "notes": text(), "label": i % 2},
        "'text' may hold the texts",
        "label",
        CLASSES,
    ),
    "two classes as floats": (lambda i: {"text": text(), "label": float(i % 2)}, ["text"], "label", CLASSES),
    "floats from 0 to 2": (lambda i: {"text": text(), "label": float(i % 3)}, ["text"], "label", "classes or a scale?"),
    "-1, 0 and 1": (lambda i: {"text": text(), "label": i % 3 - 1}, ["text"], "label", "holds '-1' in 80 rows"),
    "-1 and 1": (lambda i: {"text": text(), "y": i % 2 * 2 - 1}, ["text"], "y", CLASSES),
    "stars as floats": (lambda i: {"text": text(), "stars": i % 5 + 1.0}, ["text"], "stars", "classes or a scale?"),
    "codes with a leading zero": (lambda i: {"text": text(), "label": f"0{i % 3 + 1}"}, ["text"], "label", CLASSES),
    "unbounded fractions": (lambda i: {"text": text(), "target": RNG.gauss(0, 50)}, ["text"], "target", "regression"),
    "no label, but a source and a date": (
        lambda i: {"text": text(), "source": ["web", "book"][i % 2], "date": "2020-01-01"},
        ["text"],
        "no column looks like a label",
        None,
    ),
    "no label, but a source": (
        lambda i: {"text": text(), "source": ["web", "book"][i % 2]},
        ["text"],
        "no column looks like a label",
        None,
    ),
    "languages": (lambda i: {"text": text(), "language": ["en", "de"][i % 2]}, ["text"], "language", CLASSES),
    "lists of labels as texts": (
        lambda i: {"text": text(), "labels": str(["a", "b"][: i % 2 + 1])},
        ["text"],
        "labels holds lists",
        None,
    ),
    "only one label": (lambda i: {"text": text(), "label": 1, "year": i % 9}, ["text"], "only one value, '1'", None),
    "words and tags": (
        lambda i: {"tokens": text().split(), "tags": [0] * 9},
        "some hold lists (tokens, tags), but no two of these hold words and tags",
        "no column looks like a label",
        None,
    ),
}


def detect(row, as_texts):
    rows = [row(number) for number in range(ROWS)]
    if as_texts:  # as in a CSV file
        rows = [{key: None if value is None else str(value) for key, value in row.items()} for row in rows]
    return Columns.of(Dataset.from_list(rows), Dataset.from_list(rows[:40]))


@pytest.mark.parametrize("as_texts", [False, True], ids=["typed values", "all values as texts"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_columns_and_the_kind_of_task_are_detected_unless_they_are_unclear(name, as_texts):
    row, texts, label, kind = LAYOUTS[name]
    found = detect(row, as_texts)
    assert _matches(found.text, texts if isinstance(texts, str) else tuple(texts)), found.text
    assert _matches(found.label, label), found.label
    if isinstance(found.label, Clear):
        assert _matches(detected := found.kind(label, None), kind), detected


@pytest.mark.parametrize(
    "values",
    [[["a"], ["b", "a"], []], [[0, 2], [1], [2]], [[1], None, [0]]],
    ids=["names", "numbers", "a missing list"],
)
def test_lists_without_repeated_values_are_lists_of_labels(values):
    rows = Dataset.from_dict({"text": [text() for _ in range(ROWS)], "labels": values * (ROWS // 3)})
    found = Columns.of(rows, rows.select(range(40)))
    assert found.label == Clear("labels") and found.kind("labels", None) == Clear("multi_label")
    column = found.column("labels")
    assert set(column.counts) == {str(value) for row in values for value in row or ()}
    assert column.missing == (ROWS // 3 if None in values else 0) and labels.why_unfit(column) is None
    assert found.outputs(["labels"], "multi_label") == len(column.counts)


@pytest.mark.parametrize("one", [1, 1.0, True])
def test_vectors_with_a_0_or_1_per_label_are_counted_by_label(one):
    zero = type(one)(0)
    values = [[zero, one, one], [zero, zero, one], [one, zero, one]]
    rows = Dataset.from_dict({"text": [text() for _ in range(ROWS)], "labels": values * (ROWS // 3)})
    found = Columns.of(rows, rows.select(range(40)))
    assert found.label == Clear("labels") and found.kind("labels", None) == Clear("multi_label")
    assert found.column("labels").counts == {"0": ROWS // 3, "1": ROWS // 3, "2": ROWS}


def test_a_class_number_that_the_file_does_not_declare_is_counted_as_it_is():
    rows = Dataset.from_dict({"label": [0, 1, 2]}).cast_column("label", ClassLabel(names=["no", "yes", "maybe"]))
    table = rows.with_format("arrow")[:]
    features = Features({"label": ClassLabel(names=["no", "yes"])})
    found = Column.of(Dataset(table.replace_schema_metadata(features.arrow_schema.metadata)), "label")
    assert found.counts == {"no": 1, "yes": 1, "2": 1} and found.classes == 2


@pytest.mark.parametrize("values", [["B-x", "O", "O"], ["a", "word", "a"], [0.5, 1.5]])
def test_lists_of_tags_words_or_fractions_are_not_labels(values):
    rows = Dataset.from_dict({"text": [text() for _ in range(ROWS)], "tags": [values] * ROWS})
    found = Columns.of(rows, rows.select(range(40)))
    assert isinstance(found.label, Unclear) and "lists, but not lists of labels" in labels.why_unfit(
        found.column("tags")
    )


def test_lists_of_declared_classes_are_counted_by_class_name():
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=["joy", "anger", "fear"]))})
    rows = Dataset.from_dict({"text": [text() for _ in range(9)], "labels": [[0, 1]] * 9}, features=features)
    found = Columns.of(rows, rows)
    assert found.column("labels").counts == {"joy": 9, "anger": 9} and found.outputs(["labels"], "multi_label") == 3


def _matches(found, expected):
    return found == Clear(expected) if isinstance(found, Clear) else expected in found.why


def numbers(*values, name="label"):
    values = [value for value, _ in zip(values * ROWS, range(ROWS), strict=False)]
    return Column.of(Dataset.from_dict({name: values}), name)


@pytest.mark.parametrize(
    ("column", "outputs", "kind"),
    [
        (numbers(1, 2, 3, 4, 5, name="stars"), 5, CLASSES),
        (numbers(1, 2, 3, 4, 5, name="stars"), 1, "regression"),
        (numbers(1, 2, 3, 4, 5, name="stars"), 2, None),
        (numbers(-1, 0, 1), 3, CLASSES),
        (numbers(-1, 0, 1), 2, None),
        (numbers(0, 1), 1, None),
        (numbers(0.0, 1.0), 2, CLASSES),
        (numbers(0.0, 0.5, 1.0), None, None),
        (numbers(0.0, 0.5, 1.0), 1, "regression"),
        (numbers("a", "b", "c"), 1, None),
        (numbers("a", "b", "-"), 3, CLASSES),
        (numbers(0, 1, 2, 3, name="score"), None, None),
        (numbers(0, 1, 2, 3, name="class"), None, CLASSES),
    ],
)
def test_the_number_of_the_teacher_s_outputs_decides_between_classes_and_a_scale(column, outputs, kind):
    rows = Dataset.from_dict({"text": [text()] * ROWS})
    file = Columns(rows, {column.name: column}, Clear(("text",)), Clear(column.name))
    found = file.kind(column.name, outputs)
    assert isinstance(found, Unclear) if kind is None else found == Clear(kind)


@pytest.mark.parametrize(
    ("values", "outputs", "is_clear"),
    [
        (["a", "a|b", "a|b|c"], None, False),
        (["1,2", "2", "1, 3"], None, False),
        (["a", "a|b", "a|b|c"], 3, True),  # the teacher has a class for each value
        (["science, technology", "arts, culture", "sports"], None, True),
        (["Business: finance, tax", "Business: law, courts"], None, True),
    ],
)
def test_values_that_may_be_several_labels_are_not_taken_for_classes(values, outputs, is_clear):
    column = Column("labels", "classes", dict.fromkeys(values, 20), 0)
    found = labels.meaning(column, outputs)
    assert isinstance(found, Clear) == is_clear
    assert is_clear or ("several labels of one row" in found.why and found.candidates == ("classes",))


def test_declared_classes_make_a_column_the_label():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes", "perhaps"])})
    labels = [-1, *[number % 2 for number in range(ROWS - 1)]]
    rows = Dataset.from_dict({"text": [text() for _ in labels], "label": labels}, features=features)
    found = Columns.of(rows, rows)
    assert found.label == Clear("label") and found.kind("label", None) == Clear(CLASSES)
    assert found.by_name["label"].classes == 3 and found.by_name["label"].missing == 1


@pytest.mark.parametrize("rows", [ROWS, 6 * ROWS])
def test_missing_texts_are_counted(rows):
    texts = ["", "  ", None, *(f"{number} {text()}" for number in range(rows))]
    found = Column.of(Dataset.from_dict({"text": texts}), "text")
    assert found.form == "text" and found.missing == 3


def test_a_column_that_is_only_in_the_training_data_is_named():
    counter = count()
    train = Dataset.from_dict({"text": [text() for _ in range(40)], "Label": [next(counter) % 2 for _ in range(40)]})
    found = Columns.of(train, train.rename_column("Label", "label"))
    assert isinstance(found.label, Unclear) and found.label.why.endswith("the test data has no 'Label'")


def test_words_that_never_repeat_in_a_row_are_words_if_another_column_has_their_tags():
    def rows(start):
        numbers = range(start, start + 60)
        return Dataset.from_dict(
            {"tokens": [["to", f"w{number}"] for number in numbers], "ner_tags": [["O", "B-place"] for _ in numbers]}
        )

    columns = Columns.of(rows(0), rows(60))
    assert columns.text == Clear(("tokens",)) and columns.label == Clear("ner_tags")
    assert columns.kind("ner_tags", None) == Clear("tagging")


def test_digits_of_other_scripts_are_class_names_as_in_the_data():
    column = Column.of(Dataset.from_dict({"rating": ["\u0663", "\u0664", "\u0665"] * 20}), "rating")
    assert column.numbers is None and labels.meaning(column, None) == Clear("classes")


def test_any_column_with_repeated_values_can_be_named_as_the_label():
    sites = [f"{name}.com" for name in "abcd"] * 60
    rows = Dataset.from_dict({"text": [text() for _ in sites], "link": sites})
    found = Columns.of(rows, rows)
    assert found.kind("link", None) == Clear(CLASSES)
