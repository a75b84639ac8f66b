"""Invalid input leads to exit code 2 and one line with the rule, the value and the remedy; nothing is written."""

from __future__ import annotations

import pytest
from tiny import TEACHER_TABLE, TINY_STUDY, make_rows

from nas.errors import SearchSpaceError
from nas.space import SearchSpace
from nas.study import Study

SPACE = f"""
name = "mine"
{TEACHER_TABLE}[dimensions]
layers = [1, 3]
hidden_size = [16, 32]
num_attention_heads = [1, 4]
intermediate_size = [8, 64]
[compression]
attention = ["none", "int8"]
"""

# Each case: a text, its replacement, and words that the message must contain.
SPACES = {
    "not toml": ("[teacher]", "[teacher", ["not valid TOML"]),
    "unknown key": ("[dimensions]", "[dimensions]\ndepth = [1]", ["dimensions.depth", "unknown key", "layers"]),
    "missing key": ("intermediate_size = [8, 64]", "", ["dimensions.intermediate_size", "missing"]),
    "missing table": ("[teacher]", "[compression]", ["not valid TOML"]),
    "text for a number": ("hidden_size = 32", 'hidden_size = "32"', ["teacher.hidden_size", "'32'"]),
    "zero": ("num_hidden_layers = 3", "num_hidden_layers = 0", ["teacher.num_hidden_layers", "0"]),
    "negative": ("[8, 64]", "[-8, 64]", ["dimensions.intermediate_size", "-8"]),
    "fraction": ("[16, 32]", "[16.5, 32]", ["dimensions.hidden_size", "16.5"]),
    "empty list": ("layers = [1, 3]", "layers = []", ["dimensions.layers", "at least 1"]),
    "heads do not divide": ("num_attention_heads = 4", "num_attention_heads = 5", ["must divide", "5", "32"]),
    "not ascending": ("[16, 32]", "[32, 16]", ["ascend", "[32, 16]"]),
    "repeated": ("[8, 64]", "[8, 8, 64]", ["without repeats", "[8, 8, 64]"]),
    "largest is not the teacher's": ("[1, 4]", "[1, 3]", ["num_attention_heads", "4", "3"]),
    "too many layers": ("[1, 3]", "[1, 4]", ["between 1 and 3", "4"]),
    "layer out of range": ("[1, 3]", "[[0, 3], 3]", ["from 0 to 2", "[0, 3]"]),
    "layers not ascending": ("[1, 3]", "[[2, 0], 3]", ["ascending, distinct", "[2, 0]"]),
    "empty layer set": ("[1, 3]", "[[], 3]", ["between 1 and 3"]),
    "the same layers twice": ("[1, 3]", "[2, [0, 2], 3]", ["same layers"]),
    "teacher's depth missing": ("[1, 3]", "[1, 2]", ["teacher's 3 layers", "add 3"]),
    "unknown compression method": ('["none", "int8"]', '["none", "int3"]', ["'int3'", "none, int8"]),
    "method twice": ('["none", "int8"]', '["none", "none"]', ["once"]),
    "method none missing": ('["none", "int8"]', '["int8"]', ["'none' must be among"]),
    "method without its parameter": (
        '["none", "int8"]',
        '["none", "low_rank"]',
        ["attention", "a rank", "write a whole number above 0"],
    ),
    "invalid combination of methods": (
        '["none", "int8"]',
        '["none", "share+int8"]',
        ["attention", "cannot be combined", "'int8'"],
    ),
    "method for another block": (
        'attention = ["none", "int8"]',
        'embedding = ["none", "skip"]',
        ["embedding", "'skip'"],
    ),
    "rank above every size": (
        '["none", "int8"]',
        '["none", "low_rank(99)"]',
        ["'low_rank(99)'", "save space at every hidden_size"],
    ),
    "no token kept": ("layers = [1, 3]", "layers = [1, 3]\nkeep_tokens = [0]", ["dimensions.keep_tokens", "0"]),
    "threshold of one": ("layers = [1, 3]", "layers = [1, 3]\nexit_threshold = [1.0]", ["exit_threshold", "1.0"]),
    "unknown block": ('attention = ["none"', 'pooler = ["none"', ["compression.pooler", "unknown key"]),
}

STUDIES = {
    "not toml": ("[task]", "[task", ["not valid TOML"]),
    "unknown table": ("[export]", "[exports]", ["exports", "unknown key", "export"]),
    "unknown key": ("steps = 30", "step = 30", ["supernet.step", "unknown key", "steps"]),
    "missing task": ('text = ["text"]', "", ["task.text", "missing"]),
    "three texts": ('["text"]', '["a", "b", "c"]', ["task.text", "at most 2"]),
    "text for a number": ("steps = 30", 'steps = "many"', ["supernet.steps", "'many'"]),
    "zero steps": ("steps = 30", "steps = 0", ["supernet.steps", "0"]),
    "negative rate": ("learning_rate = 1e-3", "learning_rate = -1e-3", ["supernet.learning_rate", "-0.001"]),
    "unknown metric": ("max_length = 32", 'metric = "bleu"', ["'bleu'", "accuracy, f1"]),
    "metric of another kind": ("max_length = 32", 'kind = "regression"', ["regression", "spearman"]),
    "max_length too large": ("max_length = 32", "max_length = 4096", ["task.max_length", "512", "4096"]),
    "data with another suffix": ('"train.parquet"', '"train.xml"', [".parquet", "train.xml"]),
    "config without hub": ("max_length = 32", 'config = "sst2"', ["hub"]),
    "fine_tune as a string": (
        "fine_tune = { epochs = 2.0, learning_rate = 2e-3 }",
        'fine_tune = "yes"',
        ["teacher.fine_tune: must be true, false or a table", "'yes'"],
    ),
    "only one file embedded": ('train = "train.parquet"', 'train = "embedded"', ["embedded"]),
    "unknown runtime": ('name = "cpu"', 'name = "cpu"\nruntime = "tvm"', ["devices.0.runtime", "'tvm'"]),
    "runtime without int8": ('name = "cpu"', 'name = "cpu"\nruntime = "torch"', ["'torch'", "'int8'", "onnxruntime"]),
    "no sequence length": (
        "sequence_length = 32",
        "sequence_length = []",
        ["devices.0.sequence_length: must have at least 1 item, but got []"],
    ),
    "sequence length in other words": (
        "sequence_length = 32",
        'sequence_length = "long"',
        ["devices.0.sequence_length: must be 'task', but got 'long'"],
    ),
    "sequence length of zero in a list": (
        "sequence_length = 32",
        "sequence_length = [16, 0]",
        ["devices.0.sequence_length.1: must be at least 1, but got 0"],
    ),
    "key of a table of lengths": (
        "sequence_length = 32",
        "sequence_length = { short = 3 }",
        ["devices.0.sequence_length.short: must be a whole number, but got 'short'"],
    ),
    "a threshold of neither type": (
        "max_length = 32",
        'threshold = "best"',
        ["task.threshold: must be a number or 'search', but got 'best'"],
    ),
    "text as a string": ('text = ["text"]', 'text = "text"', ["task.text: must be a list, but got 'text'"]),
    "misspelt limit on the loss": (
        'p50_ms = "80%"',
        "accuracy_los = 1.0",
        ["budgets.0.accuracy_los: unknown key", "accuracy_loss"],
    ),
    "device file that is not a path": (
        'name = "cpu"',
        'name = "cpu"\nfile = 3',
        ["devices: file must be the path of a TOML file, but got 3"],
    ),
    "too many tokens replaced": ("steps = 30", "steps = 30\nreplaced_tokens = 0.9", ["replaced_tokens", "0.5", "0.9"]),
    "worst latency is not a share": ('p50_ms = "80%"', 'worst_ms = "much"', ["worst_ms", "'much'"]),
    "budget without a limit": ('p50_ms = "80%"', "", ["budgets.0: must set at least one of p50_ms"]),
    "budget is not a share": ('"80%"', '"a lot"', ["p50_ms", "'a lot'"]),
    "budget of zero": ('"80%"', '"0%"', ["above zero"]),
    "budget of unknown device": ('device = "cpu"', 'device = "phone"', ["'phone'", "cpu"]),
    "contradictory settings of a device": (
        'name = "cpu"',
        'name = "cpu"\ncompiled = true',
        ["devices.0", "only torch compiles", "remove"],
    ),
    "core that does not exist": (
        'name = "cpu"',
        'name = "cpu"\npin_to = [9999]',
        ["devices.cpu", "pin_to", "9999", "name other cores"],
    ),
    "more threads than cores": (
        'name = "cpu"',
        'name = "cpu"\nthreads = 5000',
        ["devices.cpu", "threads", "5000", "lower threads"],
    ),
    "device file missing": ('name = "cpu"', 'name = "cpu"\nfile = "pi.toml"', ["pi.toml", "no such file"]),
    "device twice in a budget": (
        'device = "cpu"\np50_ms = "80%"',
        'limits = [{ device = "cpu", p50_ms = 1.0 }, { device = "cpu", size_mb = 1.0 }]',
        ["budgets.0", "'cpu' occurs more than once"],
    ),
    "budget is a list": ('"80%"', "[1.0]", ["budgets.0.p50_ms", "a number or a percentage"]),
    "infinite budget": ('"80%"', "inf", ["p50_ms", "finite"]),
    "budget too large for a float": ('"80%"', "9" * 400, ["p50_ms", "finite"]),
    "number with too many digits": ('"80%"', "9" * 5000, ["study.toml", "not valid TOML", "digits"]),
    "two budgets with the same name": ('name = "small"', 'name = "large"', ["'large'", "more than once"]),
    "budget named like a candidate": (
        'name = "large"',
        'name = "trial-7"',
        ["budgets.0.name", "'trial-7'", "rename the budget"],
    ),
    "budget named like a baseline": (
        'name = "large"',
        'name = "Teacher"',
        ["budgets.0.name", "'Teacher'", "rename the budget"],
    ),
    "budgets whose names differ in case": ('name = "small"', 'name = "Large"', ["'large'", "'Large'", "rename one"]),
    "device named like a file of another": (
        "[[budgets]]",
        '[[devices]]\nname = "cpu.samples"\n[[budgets]]',
        ["devices", "'cpu.samples'", "'cpu'", "rename one"],
    ),
    "name of a budget is a path": (
        'name = "large"',
        'name = "../large"',
        ["budgets.0.name: must consist of letters", "'../large'"],
    ),
    "seed too large": ("[task]", "seed = 4294967296\n[task]", ["seed", "4294967296"]),
    "null character in a path": (
        'test = "test.parquet"',
        'test = "test\\u0000.parquet"',
        ["study.toml", "\\u0000", "remove it"],
    ),
    "unknown space": ('name = "tiny"', 'name = "huge"', ["'huge'", "tiny", "minilm-l6"]),
    "space file missing": ('name = "tiny"', 'name = "huge.toml"', ["huge.toml", "no such file"]),
    "train is test": ('test = "test.parquet"', 'test = "train.parquet"', ["task", "must differ"]),
    "method none excluded": ('name = "tiny"', 'name = "tiny"\nexclude_compression = ["none"]', ["'none'", "int8"]),
    "unknown exclusion": ('name = "tiny"', 'name = "tiny"\nexclude_compression = ["int3"]', ["'int3'"]),
    "int8 on torch": (
        'name = "cpu"',
        'name = "cpu"\nruntime = "torch"',
        [
            "devices.cpu: the runtime 'torch' cannot run",
            "'int8', which runs only on onnxruntime;",
            "add 'int8' to search_space.exclude_compression",
        ],
    ),
    "int8 on a GPU": (
        'name = "cpu"',
        'name = "cpu"\nprocessor = "cuda"',
        [
            "devices.cpu: the processor 'cuda' cannot run",
            "'int8', which runs only on cpu;",
            "add 'int8' to search_space.exclude_compression",
        ],
    ),
    "unknown sampler": ("evaluations = 16", 'sampler = "luck"', ["search.sampler", "'luck'"]),
    "batch not divisible by workers": (
        "steps = 30",
        "steps = 30\nworkers = 3",
        ["supernet", "64 texts", "3", "change one"],
    ),
    "GPUs above one but not whole": (
        "population = 8",
        "executor = 'ray'\nworker_gpus = 1.5",
        ["worker_gpus", "whole number", "1.5", "round it"],
    ),
    "no processor per worker": ("population = 8", "executor = 'ray'\nworker_cpus = 0", ["search.worker_cpus", "0"]),
    "processors of the inline executor": ("population = 8", "worker_cpus = 2", ["worker_cpus", "inline", "2", "'ray'"]),
    "workers of the inline executor": ("population = 8", "workers = 2", ["search", "inline", "'ray'"]),
    "password in a list": ("population = 8", 'storage = ["postgresql://u:s3cret@h/n"]', ["search.storage", "string"]),
    "password in a wrong table": (
        "[search]",
        "[[search]]\nstorage = 'postgresql://u:s3cret@h/n'",
        ["search: must be a table"],
    ),
    "population too small": ("population = 8", "population = 1", ["search.population", "4"]),
    "undeclared variable": ('"train.parquet"', '"${DATA}/train.parquet"', ["DATA", "[variables]"]),
    "unset variable": ("[task]", '[variables]\nNOWHERE_SET = "a folder"\n[task]', ["NOWHERE_SET", "a folder", "--set"]),
    "unknown key of the study": ("[task]", "seeed = 1\n[task]", ["seeed: unknown key", "name, search, search_space"]),
    "path is reserved": ("[task]", 'path = "x"\n[task]', ["path", "unknown key"]),
    "teacher missing": ('"./teacher"', '"./nobody"', ["nobody", "is not a folder"]),
    "teacher of another shape": ('name = "tiny"', 'name = "minilm-l6"', ["6 layers", "3 layers"]),
    "texts longer than the teacher allows": ("max_length = 32", "max_length = 64", ["task.max_length", "40", "64"]),
    "sequences longer than the teacher allows": (
        "sequence_length = 32",
        "sequence_length = 64",
        ["devices.cpu", "40", "64"],
    ),
    "data missing": ('"test.parquet"', '"nowhere.parquet"', ["nowhere.parquet", "no such data file"]),
}


@pytest.mark.parametrize("case", SPACES)
def test_a_malformed_search_space_is_refused_in_one_line(case, tmp_path):
    old, new, words = SPACES[case]
    assert old in SPACE
    path = tmp_path / "mine.toml"
    path.write_text(SPACE.replace(old, new, 1))
    with pytest.raises(SearchSpaceError) as problem:
        SearchSpace.load(path)
    message = str(problem.value)
    assert "\n" not in message and message.startswith(str(path))
    assert all(word in message for word in words), message


def test_a_well_formed_search_space_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    for encoding in ("utf-8", "utf-8-sig"):  # editors on Windows add a byte order mark
        path.write_text(SPACE, encoding=encoding)
        # 2 hidden sizes, and 1 or 3 layers that each have 8 forms.
        assert SearchSpace.load(path).count() == 1040


@pytest.mark.parametrize(("value", "equivalent"), [("true", "{}"), ("false", None)])
def test_fine_tune_may_be_true_for_the_defaults_or_false_for_none(tiny_study, value, equivalent):
    def load(line):
        tiny_study.write_text(TINY_STUDY.replace("fine_tune = { epochs = 2.0, learning_rate = 2e-3 }", line))
        return Study.load(tiny_study)

    found = load(f"fine_tune = {value}")
    expected = load(f"fine_tune = {equivalent}" if equivalent else "")
    assert found == expected and found.digest("teacher") == expected.digest("teacher")
    assert (found.teacher.fine_tune is None) == (equivalent is None)


@pytest.mark.parametrize("case", STUDIES)
def test_a_malformed_study_is_refused_in_one_line(case, nas, tiny_study, tmp_path):
    old, new, words = STUDIES[case]
    assert old in TINY_STUDY
    tiny_study.write_text(TINY_STUDY.replace(old, new, 1))
    output, error = nas("check", tiny_study, "--runs", tmp_path / "runs", code=2)
    assert output == ""
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error
    assert "s3cret" not in error
    assert all(word in error for word in words), error
    assert not (tmp_path / "runs").exists()


DIMENSIONS = {
    "dropped tokens at a fixed length": ("keep_tokens = [4]", "", ["devices.cpu", "'task'", "keep_tokens", "32"]),
    "exits on torch": ("exit_threshold = [0.9]", 'runtime = "torch"', ["devices.cpu", "exit_threshold", "'torch'"]),
    "exits in batches": ("exit_threshold = [0.9]", "batch_size = 4", ["devices.cpu", "batch_size must be 1", "got 4"]),
    "exits at a fixed length": ("exit_threshold = [0.9]", "", ["devices.cpu", "'task'", "exit_threshold", "32"]),
}


@pytest.mark.parametrize("case", DIMENSIONS)
def test_a_search_space_that_does_not_suit_the_device_is_refused(case, nas, tiny_study, tmp_path):
    line, device, words = DIMENSIONS[case]
    space = SPACE.replace("[dimensions]", f"[dimensions]\n{line}").replace('["none", "int8"]', '["none"]')
    (tiny_study.parent / "mine.toml").write_text(space)
    study = TINY_STUDY.replace('name = "tiny"', 'name = "mine.toml"')
    tiny_study.write_text(study.replace('name = "cpu"', f'name = "cpu"\n{device}'))
    _, error = nas("check", tiny_study, "--runs", tmp_path / "runs", code=2)
    assert error.count("\n") == 1 and all(word in error for word in words), error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "no-such-study"], ["no-such-study", "quickstart"]),
        (["check", "quickstart", "--set", "TEACHER"], ["NAME=VALUE"]),
        (["check", "quickstart", "--set", "TEACHER=x"], ["no such variable"]),
        (["front", "quickstart"], ["front.json", "run nas search"]),
        (["report", "quickstart"], ["nothing to report"]),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(nas, tmp_path, arguments, words):
    _, error = nas(*arguments, "--runs", tmp_path, code=2)
    assert error.count("\n") == 1 and all(word in error for word in words), error


def test_data_without_the_named_columns_is_refused_before_training(nas, tiny_study, tmp_path):
    make_rows(300, 0).rename_column("text", "body").to_parquet(tiny_study.parent / "train.parquet")
    _, error = nas("train", tiny_study, "--runs", tmp_path / "runs", code=2)
    assert error.splitlines()[-1].startswith("error: ") and "use one of body, label" in error
    assert not (tmp_path / "runs" / "tiny" / "teacher").exists()


def test_a_broken_data_file_is_refused_by_check_and_doctor(nas, tiny_study, tmp_path):
    (tiny_study.parent / "train.parquet").write_bytes(b"")
    _, error = nas("check", tiny_study, "--runs", tmp_path / "runs", code=2)
    assert "train.parquet: cannot be read as Parquet" in error and error.count("\n") == 1
    nas("doctor", tiny_study, code=2)


def test_an_address_without_a_ray_cluster_is_refused(nas, tiny_study, tmp_path):
    _, errors = nas("search", tiny_study, "--address", "127.0.0.1:1", "--runs", tmp_path / "runs", code=2)
    assert errors.startswith("error: --address: needs a Ray cluster, but none was found at '127.0.0.1:1'")
    assert len(errors.strip().splitlines()) == 1 and not (tmp_path / "runs").exists()
