"""Data sets on the hub are read by configuration and split, and unsuitable or unsafe ones are refused."""

from __future__ import annotations

import gzip

import pytest
from datasets import ClassLabel, Dataset
from huggingface_hub import constants
from tiny import as_parquet, make_rows

from nas.data.files import read_rows
from nas.errors import DataError
from nas.hub import find, splits

ROWS = make_rows(20, 0)
CSV = "text,label\nNone of it,no\nNA or so,yes\n"
CONFIGS = """---
configs:
- config_name: words
  data_files:
  - split: train
    path: words/train-*
  - split: validation
    path: words/validation.parquet
- config_name: lines
  data_files: lines.csv
---
"""


@pytest.fixture
def data(hub):
    """Return a function that adds a data set to the hub and returns its snapshot."""

    def add(files, name="someone/data", **settings):
        hub.add("dataset", name, files, **settings)
        return find("dataset", name, None)[0]

    return add


def _read(snapshot, split, config=None):
    return read_rows(split, snapshot.name, config, revision=snapshot.commit)


@pytest.fixture
def configured(data):
    parquet = {f"words/train-0000{part}.parquet": as_parquet(ROWS.shard(2, part, contiguous=True)) for part in (0, 1)}
    return data({"README.md": CONFIGS, "lines.csv": CSV, "words/validation.parquet": as_parquet(ROWS)} | parquet)


def test_configurations_and_splits_of_the_readme_are_read_in_order(configured, hub):
    assert list(splits(configured, "words")) == ["train", "validation"] and list(splits(configured, "lines")) == [
        "train"
    ]
    assert not any("/large/" in request for request in hub.requests)
    assert _read(configured, "train", "words").to_dict() == ROWS.to_dict()
    assert "words/validation.parquet" not in str(hub.requests)
    assert _read(configured, "train", "lines")["text"][:] == ["None of it", "NA or so"]


def test_slices_and_sums_of_splits_are_read(configured):
    found = _read(configured, "train[:3]+validation[50%:]", "words")
    assert found["text"][:] == ROWS["text"][:3] + ROWS["text"][10:]
    with pytest.raises(DataError, match="use the form train"):
        _read(configured, "train[:x]", "words")


@pytest.mark.parametrize(
    ("config", "split", "words"),
    [
        (None, "train", "task.config: .* has several configurations; set one of words, lines"),
        ("wrds", "train", "task.config: .* has no configuration 'wrds'; use one of words, lines"),
        ("words", "test", "no split 'test'; use one of train, validation"),
    ],
)
def test_errors_for_unknown_configurations_and_splits_name_the_known_ones(configured, config, split, words):
    with pytest.raises(DataError, match=words):
        _read(configured, split, config)


def test_splits_are_found_by_the_names_of_files(data, hub):
    found = data({"data/train-00000-of-00001.parquet": as_parquet(ROWS), "test.csv": CSV, "data/big.bin": b"x"})
    assert _read(found, "train").to_dict() == ROWS.to_dict()
    with pytest.raises(DataError, match="no configuration 'words'; remove it"):
        splits(found, "words")


def test_jsonl_compressed_files_and_other_separators_are_read(data):
    lines = '{"text": "01", "label": 0}\n{"text": "x", "label": 1}\n'
    assert _read(data({"train.jsonl": lines}), "train")["text"][:] == ["01", "x"]
    assert _read(data({"train.jsonl.gz": gzip.compress(lines.encode())}, "someone/packed"), "train")["label"][:] == [
        0,
        1,
    ]
    readme = "---\nconfigs:\n- config_name: default\n  data_files: train.csv\n  sep: '|'\n---\n"
    assert _read(data({"README.md": readme, "train.csv": "text|label\na|1\n"}, "someone/bars"), "train")["text"][:] == [
        "a"
    ]


def test_class_names_are_read_from_the_readme(data):
    readme = """---
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': 'no'
          '1': 'yes'
---
"""
    found = _read(data({"README.md": readme, "train.csv": CSV}), "train")
    assert found.features["label"] == ClassLabel(names=["no", "yes"]) and found["label"][:] == [0, 1]


def test_splits_that_were_read_before_can_be_read_offline(configured, hub, monkeypatch):
    _read(configured, "train", "words")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again, doubt = find("dataset", "someone/data", None)
    assert doubt and _read(again, "train", "words").to_dict() == ROWS.to_dict()
    with pytest.raises(DataError, match=r"task.hub: someone/data: HF_HUB_OFFLINE is set"):
        _read(again, "validation", "words")


def test_code_of_a_data_set_is_not_run_and_files_outside_it_are_not_read(data, tmp_path):
    (tmp_path / "secret.csv").write_text(CSV)
    with pytest.raises(DataError, match=r"needs its loading script data.py, but nas runs no code from a data set"):
        splits(data({"data.py": "raise SystemExit", "train.csv": CSV}), None)
    for path in (str(tmp_path / "secret.csv"), "../../secret.csv", "hf://datasets/someone/other/train.csv"):
        readme = f"---\nconfigs:\n- config_name: default\n  data_files: {path}\n---\n"
        with pytest.raises(DataError, match=r"which is not a file of the data set|are not a data set"):
            splits(data({"README.md": readme, "train.csv": CSV}, "someone/strange"), None)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"README.md": "# empty\n"}, "are not a data set: .*doesn't contain any data files"),
        ({"README.md": "---\nconfigs: [\n---\n", "train.csv": CSV}, "are not a data set"),
        ({"train/a.png": b"x", "train/b.png": b"y"}, "does not consist of tables .*'imagefolder'"),
        ({"train.pkl": b"x"}, "does not consist of tables|are not a data set"),
    ],
)
def test_a_data_set_without_tables_is_refused(data, files, words):
    with pytest.raises(DataError, match=words) as problem:
        splits(data(files), None)
    assert "\n" not in str(problem.value) and "/tmp" not in str(problem.value)


def test_files_of_a_split_with_different_columns_are_refused(data):
    other = Dataset.from_dict({"text": [["a"]], "label": ["b"]})
    files = {
        "data/train-00000-of-00002.parquet": as_parquet(ROWS),
        "data/train-00001-of-00002.parquet": as_parquet(other),
    }
    with pytest.raises(DataError, match="cannot be read as rows with the same columns"):
        _read(data(files), "train")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gated": True}, r"is gated; accept its terms at .*/datasets/someone/data"),
        ({"private": True}, "has no such data set or it is private"),
    ],
)
def test_a_data_set_without_access_is_refused(hub, settings, words):
    hub.add("dataset", "someone/data", {"README.md": CONFIGS}, **settings)
    with pytest.raises(DataError, match=words):
        splits(find("dataset", "someone/data", None)[0], "words")
