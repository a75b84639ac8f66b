"""The built-in task `embedded`: a data set and a teacher that are built on this machine without a download.

The task is to fill a gap. One short word of a sentence is replaced by [MASK], and the classifier predicts which of
eight words it was. The sentences come from docstrings in Python's standard library and in installed packages. Their
source files are read as text and never imported. The teacher is a small BERT with random weights, which the pipeline
fine-tunes. Its WordPiece vocabulary is trained on the same sentences.

The answer depends on the words next to the gap and on their order, not only on which words the sentence contains.
Deeper and wider networks are therefore noticeably more accurate.
"""

from __future__ import annotations

import math
import random
import re
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from nas.errors import DataError
from nas.files import write_atomically

VERSION = 2
WORDS = ("of", "to", "in", "for", "and", "is", "the", "with")
"""The classes of the task: the words that a gap can replace."""
GAP = "[MASK]"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", GAP)
PACKAGES = (
    "datasets",
    "huggingface_hub",
    "matplotlib",
    "networkx",
    "numpy",
    "optuna",
    "pandas",
    "ray",
    "scipy",
    "sklearn",
    "sympy",
    "torch",
    "transformers",
)
"""The packages from which sentences are read, in addition to the standard library. Missing packages are skipped."""
TRAIN_ROWS = 50_000
TEST_ROWS = 4_000
LEAST_TRAIN_ROWS = 5_000
MOST_FILE_BYTES = 1_000_000
SENTENCE_WORDS = range(6, 17)
VOCABULARY = 4_000
MAX_LENGTH = 32
_POSITION_SCALE, _LONGEST_WAVE = 0.1, 100.0

# The standard library's folder may contain site-packages with all other installed packages.
_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests"})
# A docstring starts on the line after a colon. This pattern also works on source that this Python cannot parse.
_DOCSTRING = re.compile(r':[ \t]*\n[ \t]+[rR]?"""(.*?)"""', re.DOTALL)
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z`\"'])")
_PROSE = re.compile(r"[A-Z][A-Za-z ,;'()-]+\.")


def build(folder: Path, seed: int) -> None:
    """Write `train.parquet`, `test.parquet` and the untrained `teacher/` to `folder`.

    The files depend only on the seed and on the installed packages. Raises `DataError` if the docstrings of the
    installed packages contain too few sentences.
    """
    rng = random.Random(seed)
    train, test = _train_and_test(sentences(source_folders()), rng)
    rows = {"train": gaps(train, rng)[:TRAIN_ROWS], "test": gaps(test, rng)[:TEST_ROWS]}
    if len(rows["train"]) < LEAST_TRAIN_ROWS:
        raise DataError(
            f"embedded: {LEAST_TRAIN_ROWS} training rows are needed, but the docstrings on this machine yield only "
            f"{len(rows['train'])}; install packages with their sources, or use your own data set in [task]"
        )
    for name, part in rows.items():
        _write_rows(folder / f"{name}.parquet", part)
    _write_teacher(folder / "teacher", [text for text, _ in rows["train"]], seed)


def source_folders() -> dict[str, Path]:
    """Return the folders with Python files to read, keyed by name: the standard library and all `PACKAGES`.

    Packages that are not installed are left out.
    """
    folders = {"python": Path(sysconfig.get_path("stdlib"))}
    for name in PACKAGES:
        spec = find_spec(name)  # finds a top-level package without importing it
        if spec and spec.submodule_search_locations:
            folders[name] = Path(next(iter(spec.submodule_search_locations)))
    return folders


def sentences(folders: dict[str, Path]) -> dict[str, str]:
    """Return the docstring sentences in `folders`, in lower case, each mapped to the first file that contains it."""
    file_of_sentence: dict[str, str] = {}
    for name, folder in sorted(folders.items()):
        for path in _source_files(folder):
            for sentence in _sentences_of(path):
                file_of_sentence.setdefault(sentence, f"{name}/{path.relative_to(folder).as_posix()}")
    return file_of_sentence


def _source_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if not _SKIPPED_FOLDERS.intersection(parts):
            yield path


def _sentences_of(path: Path) -> Iterator[str]:
    try:
        if path.stat().st_size > MOST_FILE_BYTES:
            return
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    for docstring in _DOCSTRING.findall(source):
        for paragraph in _PARAGRAPH_END.split(docstring):
            for sentence in _SENTENCE_END.split(" ".join(paragraph.replace("`", "").split())):
                words = sentence[:-1].lower().split()
                if len(words) in SENTENCE_WORDS and "--" not in sentence and _PROSE.fullmatch(sentence):
                    yield " ".join(words)


def _train_and_test(file_of_sentence: dict[str, str], rng: random.Random) -> tuple[list[str], list[str]]:
    """Split the sentences into training and test sentences.

    All sentences of a file are put into the same set, because neighbouring sentences resemble each other.
    """
    files = sorted(set(file_of_sentence.values()))
    rng.shuffle(files)
    test_files = set(files[: len(files) // 10])
    order = sorted(file_of_sentence)
    rng.shuffle(order)
    train = [sentence for sentence in order if file_of_sentence[sentence] not in test_files]
    test = [sentence for sentence in order if file_of_sentence[sentence] in test_files]
    return train, test


def gaps(texts: list[str], rng: random.Random) -> list[tuple[str, int]]:
    """Return one row (text with a gap, index of the replaced word in `WORDS`) per sentence.

    The gap replaces one of `WORDS`, but never the first or the last word of a sentence. If a sentence contains several
    of `WORDS`, the gap replaces the one that has been replaced least often so far, so that the classes are about
    equally frequent. Sentences without a word to replace and repeated texts are left out.
    """
    counts = [0] * len(WORDS)
    rows: dict[str, int] = {}
    for text in texts:
        words = text.split()
        positions = [position for position in range(1, len(words) - 1) if words[position] in WORDS]
        if not positions:
            continue
        position = min(positions, key=lambda position: (counts[WORDS.index(words[position])], rng.random()))
        label = WORDS.index(words[position])
        row = " ".join((*words[:position], GAP, *words[position + 1 :]))
        if row not in rows:
            rows[row] = label
            counts[label] += 1
    return list(rows.items())


def _write_rows(path: Path, rows: list[tuple[str, int]]) -> None:
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(WORDS))})
    table = Dataset.from_dict(columns, features=features)
    write_atomically(path, table.to_parquet)


def vocabulary(texts: list[str]) -> list[str]:
    """Return a WordPiece vocabulary for the texts, with special tokens first. It depends only on the texts."""
    texts = [text.replace(GAP, "") for text in texts]
    letters = sorted({letter for text in texts for letter in text if not letter.isspace()})
    # The trainer breaks ties by token number, and it numbers the letters in an arbitrary order. Passing all letters as
    # special tokens fixes that order.
    fixed_tokens = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(
        texts, vocab_size=VOCABULARY, min_frequency=2, special_tokens=fixed_tokens, show_progress=False
    )
    return [*SPECIAL_TOKENS, *sorted(set(pieces.get_vocab()) - set(SPECIAL_TOKENS))]


def _waves(length: int, width: int) -> torch.Tensor:
    """Return sinusoidal position embeddings (Vaswani et al., arXiv:1706.03762) of shape (length, width).

    With these initial values, attention learns to find a gap's neighbours much sooner than with random initial values.
    """
    rates = torch.exp(-torch.arange(0, width, 2) / width * math.log(_LONGEST_WAVE))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _write_teacher(folder: Path, texts: list[str], seed: int) -> None:
    """Write a BERT with random weights to a folder, with a tokenizer whose vocabulary is trained on `texts`."""
    tokens = {token: number for number, token in enumerate(vocabulary(texts))}
    tokenizer = BertTokenizer(vocab=tokens, model_max_length=MAX_LENGTH)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.06,  # BERT's 0.02 suits a hidden size of 768; narrow models learn much more slowly with it
        hidden_dropout_prob=0.0,  # two epochs from scratch are too few to overfit
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(WORDS)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    model.bert.embeddings.position_embeddings.weight.data.copy_(_POSITION_SCALE * _waves(MAX_LENGTH, 128))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
