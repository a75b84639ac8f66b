"""Tiny tasks, studies, tokenizers and models for the tests."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hub_server import Hub, folder_files
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from nas.architecture import Architecture, Layer
from nas.data import TaskData
from nas.data import prepare as prepare_data
from nas.form import NetworkForm
from nas.sentence_modules import write_modules
from nas.space import SearchSpace
from nas.study import Task

WORDS = [f"w{number}" for number in range(60)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
POSITIONS = 40
PRINTED = "printed.json"
"""The file next to a finished study that holds what `nas run` printed."""
_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
_DISTILBERT_SIZES = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64}
_NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
# Every kind of teacher: its model_type, and the settings that fit the space "tiny" with POSITIONS usable positions.
TEACHERS = {
    "bert": ("bert", _SIZES),
    "roberta": ("roberta", _SIZES | {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1}),
    "distilbert": ("distilbert", _DISTILBERT_SIZES),
    "electra": ("electra", _SIZES | {"embedding_size": 20}),
    "electra without projection": ("electra", _SIZES | {"embedding_size": 32}),
    "mpnet": ("mpnet", _SIZES | {"max_position_embeddings": POSITIONS + 2}),
    "modernbert": (
        "modernbert",
        _SIZES
        | {"pad_token_id": 0, "local_attention": 8}
        | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}
        | _NO_TOKENS,
    ),
}
FAMILY_OF = {kind: family for kind, (family, _) in TEACHERS.items()}
"""The model family of each kind of teacher."""


def randomise(model: torch.nn.Module, seed: int = 0, scale: float = 0.4) -> torch.nn.Module:
    """Give every parameter random values, including norms and biases, because zeros and ones would hide mistakes.

    The weights of norms are drawn around one, so that the outputs of different texts differ.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        is_norm = isinstance(module, torch.nn.LayerNorm)
        for name, parameter in module.named_parameters(recurse=False):
            parameter.data.normal_(1.0 if is_norm and name == "weight" else 0.0, scale, generator=generator)
    return model.eval()


def make_teacher(kind: str = "bert", outputs: int = 2, vocab_size: int = 90) -> PreTrainedModel:
    """Return a classifier of transformers of a kind in TEACHERS, with randomly initialised weights."""
    family, settings = TEACHERS[kind]
    settings = {"vocab_size": vocab_size, "max_position_embeddings": POSITIONS, "num_labels": outputs} | settings
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **settings))


def prepare(task: Task, train: str, test: str, token_types: bool = True) -> TaskData:
    """Read, split and tokenise the data of a task with the tokenizer of the tiny teachers."""
    return prepare_data(task, train, test, make_tokenizer(), 0, token_types)


def prepare_rows(folder: Path, train: int, test: int) -> TaskData:
    """Return tokenised splits of `train` training rows, `test` of which form the search set, and `test` test rows."""
    for name, count, seed in (("train", train, 0), ("test", test, 1)):
        make_rows(count, seed).to_parquet(folder / f"{name}.parquet")
    task = Task(train="train.parquet", test="test.parquet", text=("text",), max_length=16, holdout={"size": test})
    return prepare(task, *(str(folder / f"{name}.parquet") for name in ("train", "test")))


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=POSITIONS,
    )


def make_rows(count: int, seed: int) -> Dataset:
    """Return texts of made-up words. The label is 1 if more than half of the words are below w30, and 0 otherwise."""
    rng = random.Random(seed)
    texts = [rng.choices(range(60), k=rng.randint(3, 12)) for _ in range(count)]
    return Dataset.from_dict(
        {
            "text": [" ".join(f"w{number}" for number in text) for text in texts],
            "label": [int(sum(number < 30 for number in text) * 2 > len(text)) for text in texts],
        }
    )


TEACHER_TABLE = """[teacher]
num_hidden_layers = 3
hidden_size = 32
num_attention_heads = 4
intermediate_size = 64
"""
"""The sizes of the tiny teacher, as in a search-space file."""
FEW_BLOCKS = f"""
name = "few"
{TEACHER_TABLE}[dimensions]
layers = [1, 2, 3]
hidden_size = [32]
num_attention_heads = [1, 2, 4]
intermediate_size = [8, 24, 64]
[compression]
embedding = ["none"]
attention = ["none"]
feed_forward = ["none", "int8"]
"""
"""A search space whose profile takes a quarter of the measurements of "tiny", for tests of later steps."""


_ON_THIS_MACHINE = """[search_space]
name = "tiny"

[[devices]]
name = "cpu"
sequence_length = 32
repeats = 8
"""

TINY_STUDY = f"""
[task]
train = "train.parquet"
test = "test.parquet"
text = ["text"]
max_length = 32
holdout = {{ size = 200 }}

[teacher]
model = "./teacher"
fine_tune = {{ epochs = 2.0, learning_rate = 2e-3 }}

{_ON_THIS_MACHINE}
[[budgets]]
name = "large"
device = "cpu"
p50_ms = "80%"

[[budgets]]
name = "small"
device = "cpu"
p50_ms = "50%"

[supernet]
steps = 30
learning_rate = 1e-3
checkpoint_steps = 10

[search]
evaluations = 16
population = 8

[export]
epochs = 0.5
candidates = 2
"""


def save_teacher(folder: Path, kind: str = "bert", outputs: int = 2, has_head: bool = True) -> None:
    """Save an untrained teacher of a kind in TEACHERS, with or without a head, and its tokenizer to a folder."""
    torch.manual_seed(0)
    teacher = make_teacher(kind, outputs, len(SPECIAL + WORDS))
    (teacher if has_head else teacher.base_model).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def write_study(folder: Path, text: str, train: Dataset, **evaluated_on: Dataset) -> Path:
    """Write a study file, the data and the search space `few.toml` to a folder; return the path of study.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"train": train, **evaluated_on}.items():
        rows.to_parquet(folder / f"{name}.parquet")
    (folder / "few.toml").write_text(FEW_BLOCKS)
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


def write_tiny_study(folder: Path, kind: str = "bert") -> Path:
    """Write a tiny study, its data and an untrained teacher of a kind in TEACHERS; return the path of study.toml."""
    save_teacher(folder / "teacher", kind)
    return write_study(folder, TINY_STUDY, make_rows(1200, 0), test=make_rows(200, 1))


HUB_STUDY = TINY_STUDY.replace('train = "train.parquet"', 'hub = "someone/words"\ntrain = "train"')
HUB_STUDY = HUB_STUDY.replace('"test.parquet"', '"test"').replace('"./teacher"', '"someone/bert"')
"""The tiny study with its teacher and data on the hub."""


def fill_hub(hub: Hub, folder: Path) -> None:
    """Add the tiny data set, and the tiny teacher with a classifier for its two classes, to a hub."""
    save_teacher(folder)
    hub.add("model", "someone/bert", folder_files(folder))
    rows = {name: make_rows(count, seed) for name, count, seed in (("train", 1200, 0), ("test", 200, 1))}
    hub.add(
        "dataset", "someone/words", {f"data/{name}-00000-of-00001.parquet": as_parquet(rows[name]) for name in rows}
    )


def as_parquet(rows: Dataset) -> bytes:
    """Return the rows as the content of a Parquet file."""
    stream = io.BytesIO()
    rows.to_parquet(stream)
    return stream.getvalue()


def make_pairs(count: int, seed: int) -> Dataset:
    """Return pairs of texts of made-up words. The label is five times the share of words below w5 in both texts."""
    rng = random.Random(seed)
    pairs = [[rng.choices(range(10), k=rng.randint(2, 6)) for _ in range(2)] for _ in range(count)]
    columns = {
        column: [" ".join(f"w{number}" for number in pair[place]) for pair in pairs]
        for place, column in enumerate(("first", "second"))
    }
    shares = [[number < 5 for number in first + second] for first, second in pairs]
    return Dataset.from_dict(columns | {"label": [5.0 * sum(share) / len(share) for share in shares]})


PAIR_STUDY = f"""
[task]
train = "train.parquet"
test = "test.parquet"
text = ["first", "second"]
kind = "regression"
metric = "spearman"
max_length = 32
holdout = {{ size = 200 }}

[teacher]
model = "./teacher"
fine_tune = {{ epochs = 4.0, learning_rate = 3e-3, batch_size = 16 }}

{_ON_THIS_MACHINE.replace('"tiny"', '"few.toml"')}
[[budgets]]
name = "only"
device = "cpu"
p50_ms = "80%"

[supernet]
steps = 30
learning_rate = 1e-3

[search]
evaluations = 8
population = 4

[export]
epochs = 0.5
candidates = 2
"""


def write_pair_study(folder: Path) -> Path:
    """Write a tiny regression over pairs, with an untrained RoBERTa and its vocab.json and merges.txt.

    Return the path of study.toml.
    """
    torch.manual_seed(0)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "w", "\u0120", "\u0120w", *map(str, range(10))]
    make_teacher("roberta", outputs=1, vocab_size=len(tokens)).save_pretrained(folder / "teacher")
    (folder / "teacher" / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "teacher" / "merges.txt").write_text("#version: 0.2\n\u0120 w\n")
    return write_study(folder, PAIR_STUDY, make_pairs(1200, 0), test=make_pairs(200, 1))


def make_labelled(count: int, seed: int) -> Dataset:
    """Return texts with up to three labels: fewer than 6 words, a word below w5, and a word from w55 on."""
    rng = random.Random(seed)
    texts = [rng.choices(range(60), k=rng.randint(3, 12)) for _ in range(count)]
    rules = {
        "short": lambda text: len(text) < 6,
        "low": lambda text: min(text) < 5,
        "high": lambda text: max(text) >= 55,
    }
    return Dataset.from_dict(
        {
            "text": [" ".join(f"w{number}" for number in text) for text in texts],
            "labels": [[name for name, applies in rules.items() if applies(text)] for text in texts],
        }
    )


LABEL_STUDY = PAIR_STUDY.replace('text = ["first", "second"]', 'text = ["text"]\nlabel = "labels"').replace(
    'kind = "regression"\nmetric = "spearman"\n', 'kind = "multi_label"\nmetric = "f1_macro"\nthreshold = "search"\n'
)


def write_label_study(folder: Path) -> Path:
    """Write a tiny multi-label task with an untrained BERT; return the path of study.toml."""
    save_teacher(folder / "teacher", outputs=3)
    return write_study(folder, LABEL_STUDY, make_labelled(1200, 0), test=make_labelled(200, 1))


def make_tagged(count: int, seed: int) -> Dataset:
    """Return lists of made-up words with IOB2 tags.

    A word below w8 begins a span of the type "low", which the following words below w20 continue. A word from w55 on is
    a span of the type "high". One word in six consists of two with a hyphen between them; the first determines the tag.
    """
    rng = random.Random(seed)
    rows: dict[str, list[list[str]]] = {"words": [], "tags": []}
    for _ in range(count):
        words, tags = list[str](), list[str]()
        for _ in range(rng.randint(3, 10)):
            number = rng.randrange(60)
            words.append(f"w{number}" + (f"-w{rng.randrange(60)}" if rng.random() < 1 / 6 else ""))
            inside = number < 20 and bool(tags) and tags[-1].endswith("-low")
            tags.append("B-low" if number < 8 else "I-low" if inside else "B-high" if number >= 55 else "O")
        rows["words"].append(words)
        rows["tags"].append(tags)
    return Dataset.from_dict(rows)


TAG_STUDY = PAIR_STUDY.replace('text = ["first", "second"]', 'text = ["words"]\nlabel = "tags"').replace(
    'kind = "regression"\nmetric = "spearman"\n', 'kind = "tagging"\nmetric = "span_f1"\n'
)


def write_tag_study(folder: Path) -> Path:
    """Write a tiny tagging task with an encoder that has no head; return the path of study.toml."""
    save_teacher(folder / "teacher", has_head=False)
    return write_study(folder, TAG_STUDY, make_tagged(1200, 0), test=make_tagged(200, 1))


def named_architectures() -> dict[str, Architecture]:
    """Return architectures of the mixed space, without quantisation, that are hardly ever drawn at random."""

    def layers(*settings: tuple[int, str, int, str, int]) -> Architecture:
        return Architecture(32, tuple(Layer(at, h, n, a, f, kept) for at, (h, a, n, f, kept) in enumerate(settings)))

    own, shared = (2, "none", 24, "none", 0), (0, "share", 0, "share", 0)
    return {
        "drops tokens twice": layers((*own[:4], 5), (*own[:4], 2), own),
        "borrows from below a skip": layers(own, (0, "skip", 24, "none", 0), (0, "share", 0, "skip", 0)),
        "borrows in the last layer": layers(own, shared, shared),
        "drops tokens and borrows": layers((*own[:4], 5), (*shared[:4], 2), shared),
        "attends once": layers((0, "skip", 24, "none", 0), own, (0, "skip", 24, "none", 0)),
        "attends never": layers(*[(0, "skip", 24, "none", 0)] * 3),
        "lends thin matrices": layers((2, "low_rank(4)", 24, "low_rank(6)", 0), (0, "skip", 0, "share", 0), shared),
    }


def mixed_space() -> SearchSpace:
    """Return the tiny space with every compression method, layers that drop tokens, and early exits."""
    choices = {
        "embedding": ["none", "int8", "int4", "low_rank(8)", "low_rank(8)+int8"],
        "attention": ["none", "int8", "low_rank(4)", "low_rank(4)+int8", "sparse(0.5)", "share", "skip"],
        "feed_forward": ["none", "int8", "int4", "low_rank(4)", "low_rank(6)", "sparse(2:4)+int8", "share", "skip"],
    }
    values = SearchSpace.load("tiny").model_dump()
    dimensions = values["dimensions"] | {"keep_tokens": [2, 5], "exit_threshold": [0.6, 0.9]}
    return SearchSpace.model_validate(values | {"name": "mixed", "dimensions": dimensions, "compression": choices})


def make_ranked(queries: int, seed: int) -> Dataset:
    """Return queries with four to nine passages. Passages that contain the first word of the query are relevant.

    About a third of the queries have no relevant passage.
    """
    rng = random.Random(seed)
    columns: dict[str, list[str | int]] = {"question_id": [], "question": [], "answer": [], "label": []}
    for number in range(queries):
        word, count = rng.randrange(8), rng.randint(4, 9)
        relevant = {*rng.sample(range(count), rng.choice([0, 1, 2]))}
        for place in range(count):
            others = [other for other in rng.choices(range(8), k=rng.randint(2, 6)) if other != word]
            passage = [word, *others] if place in relevant else others or [word + 8]
            rng.shuffle(passage)
            columns["question_id"].append(f"Q{number}")
            columns["question"].append(f"w{word} w{20 + number % 40} w{20 + number // 40} w18")
            columns["answer"].append(" ".join(f"w{other}" for other in passage))
            columns["label"].append(int(place in relevant))
    return Dataset.from_dict(columns)


RANK_STUDY = PAIR_STUDY.replace(
    'text = ["first", "second"]', 'text = ["question", "answer"]\nquery = "question_id"'
).replace('kind = "regression"\nmetric = "spearman"\n', 'kind = "ranking"\nmetric = "ndcg@10"\n')


def write_rank_study(folder: Path) -> Path:
    """Write a tiny ranking task with an untrained BERT; return the path of study.toml."""
    save_teacher(folder / "teacher", outputs=1)
    test = make_ranked(50, 1).map(lambda row: {"question": f"{row['question']} w19"})
    return write_study(folder, RANK_STUDY, make_ranked(240, 0), test=test)


def make_texts(count: int, seed: int) -> list[str]:
    """Return texts of made-up words."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 10))) for _ in range(count)]


def make_scored_pairs(count: int, seed: int) -> Dataset:
    """Return pairs of texts. The score is the share of the first text's words that are copied to the second text."""
    rng = random.Random(seed)
    columns: dict[str, list[str | float]] = {"first": [], "second": [], "score": []}
    for text in make_texts(count, seed):
        words = text.split()
        kept = rng.sample(words, rng.randint(0, len(words)))
        others = rng.choices(WORDS, k=len(words) - len(kept))
        columns["first"].append(text)
        columns["second"].append(" ".join([*kept, *others]))
        columns["score"].append(len(kept) / len(words))
    return Dataset.from_dict(columns)


EMBEDDING_STUDY = f"""
[task]
kind = "embedding"
train = "train.parquet"
text = ["text"]
search = "search.parquet"
test = "test.parquet"
pair = ["first", "second"]
label = "score"
metric = "spearman"
max_length = 16

[teacher]
model = "./teacher"

{_ON_THIS_MACHINE}
[[budgets]]
name = "only"
device = "cpu"
p50_ms = "70%"

[supernet]
steps = 30
learning_rate = 1e-3

[search]
evaluations = 8
population = 4

[export]
epochs = 2.0
candidates = 2
"""


def write_embedding_study(folder: Path, pooling: str = "mean", normalize: bool = True) -> Path:
    """Write a tiny embedding study whose teacher is a folder in the format of sentence-transformers.

    Return the path of study.toml.
    """
    torch.manual_seed(0)
    teacher = folder / "teacher"
    make_tokenizer().save_pretrained(teacher)
    config = AutoConfig.for_model("bert", vocab_size=len(SPECIAL + WORDS), max_position_embeddings=POSITIONS, **_SIZES)
    AutoModel.from_config(config).save_pretrained(teacher)
    form = NetworkForm("encoder", "mean" if pooling == "mean" else "first", normalize)
    write_modules(teacher, form, config.hidden_size)
    texts = Dataset.from_dict({"text": make_texts(600, 0)})
    pairs = {"search": make_scored_pairs(150, 1), "test": make_scored_pairs(150, 2)}
    return write_study(folder, EMBEDDING_STUDY, texts, **pairs)


def make_judged(queries: int, seed: int) -> Dataset:
    """Return queries with graded passages, and passages without a query, in a random order.

    Each query consists of words of a passage, whose grade is 2. Another passage with only one of these words has the
    grade 1, and every third query has a passage with the grade 0.
    """
    rng = random.Random(seed)
    rows: list[dict[str, str | int | None]] = []
    for number, passage in enumerate(make_texts(queries, seed + 100)):
        chosen = rng.choices(passage.split(), k=4)
        query = " ".join(chosen)
        rows.append({"query": query, "passage": passage, "grade": 2})
        rows.append({"query": query, "passage": " ".join([chosen[0], *rng.choices(WORDS, k=4)]), "grade": 1})
        if number % 3 == 0:
            rows.append({"query": query, "passage": " ".join(rng.choices(WORDS, k=5)), "grade": 0})
    rows += [{"query": None, "passage": text, "grade": None} for text in make_texts(queries, seed + 200)]
    rng.shuffle(rows)
    return Dataset.from_list(rows)


RETRIEVAL_STUDY = EMBEDDING_STUDY.replace('["first", "second"]', '["query", "passage"]').replace(
    'label = "score"\nmetric = "spearman"', 'label = "grade"\nmetric = "ndcg@10"'
)
AGREEMENT_STUDY = EMBEDDING_STUDY.replace('search = "search.parquet"\n', "").replace(
    'pair = ["first", "second"]\nlabel = "score"\nmetric = "spearman"', 'metric = "agreement"\nholdout = { size = 120 }'
)


def write_retrieval_study(folder: Path) -> Path:
    """Write a tiny embedding study that is evaluated on the retrieval of passages; return the path of study.toml."""
    study = write_embedding_study(folder)
    for name, seed in (("search", 1), ("test", 2)):
        make_judged(60, seed).to_parquet(folder / f"{name}.parquet")
    study.write_text(RETRIEVAL_STUDY)
    return study


def write_agreement_study(folder: Path) -> Path:
    """Write a tiny embedding study that compares networks with the teacher; return the path of study.toml."""
    study = write_embedding_study(folder)
    (folder / "search.parquet").unlink()
    Dataset.from_dict({"text": make_texts(100, 3)}).to_parquet(folder / "test.parquet")
    study.write_text(AGREEMENT_STUDY)
    return study


def forbid_fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch's fused attention raise an error until the end of the test."""

    def fused(*_: Any, **__: Any) -> None:
        raise AssertionError("fused attention was called")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
