"""CSV, JSONL and Parquet files are read without changes to their values, and errors name the place in the file."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from nas.data.files import read_rows, read_table, values_of, write_table
from nas.errors import DataError

WORDS = ["None", "NA", "null", "nan", "NULL", "N/A", "1", "01", "1.0", "true", "", "-inf", " x ", "2020-01-01"]


def _columns(rows, *names):
    return {name: values_of(rows, name) for name in names or rows.column_names}


def _csv(path, rows, **settings):
    with path.open("w", newline="", encoding=settings.pop("encoding", "utf-8")) as stream:
        csv.writer(stream, **settings).writerows(rows)
    return str(path)


@pytest.mark.parametrize("name", ["exp[12]", "v*", "a?", "a::b", "hf:", "~", "run=1", "é ü", "{x}", "%41", "http:"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_path_is_not_interpreted_as_a_pattern_or_a_url(tmp_path, name, suffix):
    for folder in (name, "exp1", "vx", "ab", "b", "A"):
        (tmp_path / folder).mkdir()
        rows = Dataset.from_dict({"text": [f"rows of {folder}"], "label": ["a"]})
        path = tmp_path / folder / f"train.{suffix}"
        if suffix == "csv":
            _csv(path, [["text", "label"], [f"rows of {folder}", "a"]])
        elif suffix == "jsonl":
            path.write_text(json.dumps({"text": f"rows of {folder}", "label": "a"}) + "\n")
        else:
            write_table(rows, path)
    found = read_rows(str(tmp_path / name / f"train.{suffix}"))
    assert _columns(found) == {"text": [f"rows of {name}"], "label": ["a"]}


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
def test_every_cell_of_a_csv_file_is_a_text(tmp_path, quoting):
    rows = [["text", "label"], *([word, str(number)] for number, word in enumerate(WORDS))]
    found = read_rows(_csv(tmp_path / "a.csv", rows, quoting=quoting))
    assert _columns(found) == {"text": WORDS, "label": [str(number) for number in range(len(WORDS))]}


def test_a_column_may_change_its_type_after_thousands_of_rows(tmp_path):
    values = [str(number) for number in range(12_000)] + ["unknown", "1.5", "None"]
    found = read_rows(_csv(tmp_path / "a.csv", [["text", "label"], *([value, "0"] for value in values)]))
    assert values_of(found, "text") == values
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"text": "w", "label": number, "note": number}) + "\n" for number in range(12_000))
    )
    with path.open("a") as stream:
        stream.write('{"text": "w", "label": 12000, "note": "text", "late": 1}\n')
    found = read_rows(str(path))
    assert values_of(found, "label") == list(range(12_001))
    assert values_of(found, "note")[-2:] == ["11999", '"text"'] and values_of(found, "late")[-2:] == [None, 1]
    with pytest.raises(DataError, match=r"column 'note': row 0 .* a number, 0, but row 12000 holds a string, 'text'"):
        read_rows(str(path), columns=("text", "note"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_with_byte_order_marks_and_any_line_ends_are_read(tmp_path, encoding, end):
    text = 'text,label\n"say ""hi"", é\nand go",a\n\nb \u2028 c,b'.replace("\n", end)
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    found = _columns(read_rows(str(tmp_path / "a.csv")))
    assert found == {"text": [f'say "hi", é{end}and go', "b \u2028 c"], "label": ["a", "b"]}
    lines = end.join(json.dumps({"text": t, "label": 0}, ensure_ascii=False) for t in ("é", "b \u2028 c"))
    (tmp_path / "a.jsonl").write_bytes(lines.encode(encoding))
    assert values_of(read_rows(str(tmp_path / "a.jsonl")), "text") == ["é", "b \u2028 c"]


def test_a_jsonl_file_may_be_a_single_array_and_types_are_kept(tmp_path):
    rows = [
        {"text": "a", "label": 1, "big": 2**70},
        {"text": "null", "label": None, "more": [1]},
        {"text": "", "label": 2},
    ]
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps(rows, indent=1))
    found = _columns(read_rows(str(tmp_path / "a.jsonl")))
    assert found["text"] == ["a", "null", ""] and found["label"] == [1, None, 2]
    assert found["big"] == [str(2**70), None, None] and found["more"] == [None, [1], None]


def test_numbers_of_all_sizes_may_be_mixed(tmp_path):
    rows = [{"text": "a", "label": 0.5}, {"text": "b", "label": 2**53 + 1}, {"text": "c", "label": 10**30}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert values_of(read_rows(str(tmp_path / "a.jsonl"), columns=("label",)), "label") == [0.5, 2.0**53, 1e30]


def test_long_cells_are_read_and_repeated_column_names_are_refused(tmp_path):
    long = "w" * 400_000
    found = read_rows(_csv(tmp_path / "a.csv", [["", "text", "x", "x", "label"], ["0", long, "1", "2", "a"]]))
    assert _columns(found) == {"Unnamed: 0": ["0"], "text": [long], "label": ["a"]}
    assert csv.field_size_limit() < 400_000  # the limit of other readers in the process stays the same
    with pytest.raises(DataError, match="2 columns are named 'x'; rename all but one"):
        read_rows(str(tmp_path / "a.csv"), columns=("x", "label"))


def _as_bytes(content):
    return content if isinstance(content, bytes) else content.encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\ncaf\xe9,0\n", r"a\.csv: line 2: is not UTF-8 text \(byte 0xe9\); .*iconv"),
        ("a.jsonl", '{"text": "a"}\r{"text": "\u00e9"}'.encode("cp1252"), r"a\.jsonl: line 2: is not UTF-8 text"),
        ("a.csv", "text,label\na,0\n".encode("utf-16-le"), "line 1: .* seems to be UTF-16; save the file as UTF-8"),
        ("a.csv", "text,label\na,0".encode("utf-16") + b"\n", "line 2: is not UTF-16 text"),
        ("a.csv", 'text,label\na,0\n"b\nc",d,e\n', r"line 3: row 1 \(counted from 0\) has 3 cells, .* names 2 columns"),
        ("a.csv", "text,label\na,0\nb\n", r"line 3: row 1 \(counted from 0\) has 1 cell, .* names 2 columns"),
        ("a.csv", 'text,label\na,0\n"b" c,0\n', "line 3: the row that begins here is not valid CSV"),
        ("a.csv", 'text,label\na,0\n"b,0\nc,0\n', "line 3: the row that begins here is not valid CSV"),
        ("a.csv", "", "is empty; give a file with a header"),
        ("a.csv", "text;label\na;0\n", "no column 'text'; use one of text;label .* separated by semicolons"),
        ("a.csv", "text, label\na,0\n", "no column 'label'; use one of text, ' label'"),
        ("a.csv", "\ufeff\ufefftext,label\na,0\n", r"no column 'text'; use one of '\\ufefftext', label"),
        ("a.csv", "text,\uff4cabel\na,0\n", r"no column 'label'; use one of text, '\\uff4cabel'"),
        ("a.csv", "text,\u200bclass\na,0\n", r"no column 'label'; use one of text, '\\u200bclass'"),
        ("a.jsonl", '{"text": "w1 \\ud83d", "label": 0}\n', "line 1: holds half of a surrogate pair"),
        ("a.jsonl", '[{"text": "a", "label": 0},\n{"text": "\\udc00", "label": 0}]', "element 1 of .* surrogate"),
        ("a.jsonl", '{"text": "a", "label": 0}\n\n{"text": "b", label: 0}', "line 3: is not valid JSON .*; write one"),
        ("a.jsonl", '{\n"text": "a"\n}', "line 1: is not valid JSON .* one object per line"),
        ("a.jsonl", '{"text": "a", "label": 0}\n["b", 0]\n', 'line 2: must be a JSON object .* but is \\["b", 0\\]'),
        ("a.jsonl", '[{"text": "a", "label": 0}, 3]', "element 1 of the array .* must be a JSON object"),
        ("a.jsonl", '{"text": "a", "label": 0, "text": "b"}', r"line 1: .*\(the key 'text' occurs twice\)"),
        ("a.jsonl", "[" * 100_000, "line 1: is not valid JSON"),
        ("a.jsonl", '{"text": "a", "label": 0}\n{"text": "b", "label": "0"}', "0, but row 1 holds a string, '0'"),
        ("a.jsonl", '{"text": "a", "label": true}\n{"text": "b", "label": 1}', "a boolean, True, but row 1"),
        ("a.jsonl", '{"text": "a"}\n', "no column 'label'; use one of text"),
        ("a.parquet", "no parquet", "cannot be read as Parquet: .*; write the file again"),
        ("a.csv", b"\x1f\x8b\x08\0\0\0\0\0text", r"is compressed with gzip, so it .* as \.csv; decompress it"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd\0\0", "is compressed with zstd"),
        ("a.csv", b"PK\x03\x04\x14\0", "is a ZIP archive or an Excel file"),
        ("a.csv", b"PAR1\x15\x04", r"is a Parquet file, so it cannot be read as \.csv; rename it"),
        ("a.jsonl", '{"text": "a", "label": ["x"]}\n{"text": "b", "label": ["y", 1]}', r"row 1 .* \['y', 1\]; use"),
        ("a.jsonl", '{"text": "a", "label": ["x"]}\n{"text": "b", "label": [1]}', r"row 1 .* \[1\]; use one type"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": "' + "x" * 999 + '"}', r"x\.\.\.; use one type"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "is a Git LFS pointer"),
        ("a.tsv", "text\tlabel", r"must end in \.parquet, \.csv or \.jsonl; convert the file"),
    ],
)  # fmt: skip
def test_an_error_names_the_file_and_the_place_in_it(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(_as_bytes(content))
    with pytest.raises(DataError, match=message) as caught:
        read_rows(str(tmp_path / name), columns=("text", "label"))
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_a_pair_of_surrogates_is_read_as_one_character(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00 \\\\ud83d", "other": "\\ud83d"}\n')
    assert values_of(read_rows(str(tmp_path / "a.jsonl"), columns=("text",)), "text") == ["\U0001f600 \\ud83d"]


def test_suffixes_may_be_in_upper_case(tmp_path):
    assert values_of(read_rows(_csv(tmp_path / "A.CSV", [["text"], ["a"]])), "text") == ["a"]


def test_parquet_files_keep_class_labels_and_may_have_categories_and_other_columns(tmp_path):
    path = tmp_path / "a.parquet"
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    write_table(Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features), path)
    found = read_rows(str(path), columns=("label",))
    assert found.features["label"].names == ["bad", "good"] and values_of(found, "label") == [1, 0]
    assert read_table(path).features == features
    table = pyarrow.table(
        {
            "text": pyarrow.array(["a", "b"], pyarrow.large_string()),
            "label": pyarrow.array(["x", "y"]).dictionary_encode(),
            "odd": pyarrow.array([{"a": 1}, None]).cast(pyarrow.struct([("a", pyarrow.int8())])),
        }
    )
    pyarrow.parquet.write_table(table, path)
    assert _columns(read_rows(str(path)), "text", "label") == {"text": ["a", "b"], "label": ["x", "y"]}


_HUGE = Decimal(10) ** 25


@pytest.mark.parametrize(
    ("values", "kind", "found", "dtype"),
    [
        (["a", None], pyarrow.string_view(), ["a", None], "large_string"),
        ([["a"], ["b", "a"]], pyarrow.list_(pyarrow.string_view()), [["a"], ["b", "a"]], "large_string"),
        ([["a"], None], pyarrow.list_(pyarrow.dictionary(pyarrow.int8(), pyarrow.string())), [["a"], None], "string"),
        ([Decimal("1.00"), None], pyarrow.decimal128(5, 2), [1, None], "int64"),
        ([Decimal("1.50"), Decimal("2.00")], pyarrow.decimal128(5, 2), [1.5, 2.0], "float64"),
        ([_HUGE, Decimal(3)], pyarrow.decimal128(38, 0), [str(_HUGE), "3"], "string"),
        ([[Decimal(1)], [Decimal(0)]], pyarrow.large_list(pyarrow.decimal256(50, 0)), [[1], [0]], "int64"),
        ([[Decimal(1)], [Decimal(0)]], pyarrow.list_(pyarrow.decimal128(9, 0), 1), [[1], [0]], "int64"),
    ],
)
def test_parquet_columns_of_categories_views_and_decimals_are_read_as_texts_and_numbers(
    tmp_path, values, kind, found, dtype
):
    pyarrow.parquet.write_table(pyarrow.table({"c": pyarrow.array(values, kind)}), tmp_path / "a.parquet")
    for columns in ((), ("c",)):
        rows = read_rows(str(tmp_path / "a.parquet"), columns=columns)
        feature = rows.features["c"]
        assert values_of(rows, "c") == found and getattr(feature, "feature", feature).dtype == dtype


@pytest.mark.parametrize(
    "features",
    [
        {"text": {"_type": "NewType"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}},
        {"other": {"_type": "NewType"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}},
        {"text": 3, "label": {"names": ["a", "b"], "_type": "ClassLabel"}},
    ],
)
def test_descriptions_of_columns_that_this_version_of_datasets_cannot_read_are_ignored(tmp_path, features):
    table = pyarrow.table({"text": ["x", "y"], "label": [1, 0], "other": [3, 4]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    for columns in ((), ("text", "label")):
        found = read_rows(str(tmp_path / "a.parquet"), columns=columns)
        assert _columns(found, "text", "label") == {"text": ["x", "y"], "label": [1, 0]}
        assert found.features["label"].names == ["a", "b"]


@pytest.mark.parametrize("metadata", ["{broken", "[]", "{}", '{"info": {"features": null}}', '{"info": 1}'])
def test_malformed_descriptions_of_columns_are_ignored(tmp_path, metadata):
    table = pyarrow.table({"text": ["x"]}).replace_schema_metadata({"huggingface": metadata})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert values_of(read_rows(str(tmp_path / "a.parquet")), "text") == ["x"]


def test_a_parquet_column_of_texts_with_invalid_utf_8_is_refused(tmp_path):
    broken = pyarrow.array([b"a", b"\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column 'text': .*Invalid UTF8 .*index 1; write the column as UTF-8"):
        read_rows(str(tmp_path / "a.parquet"))


def test_a_file_written_by_the_csv_module_is_read_back_unchanged(tmp_path):
    texts = ['a "quoted" word', "comma, here", "two\nlines", "tab\there", "'single'", "back\\slash", "\ufeff", "nul\0"]
    stream = io.StringIO()
    csv.writer(stream).writerows([["text", "label"], *([text, "0"] for text in texts)])
    (tmp_path / "a.csv").write_text(stream.getvalue(), newline="")
    assert values_of(read_rows(str(tmp_path / "a.csv")), "text") == texts
