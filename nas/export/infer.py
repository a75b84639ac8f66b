"""Classify texts with the model in this folder. It needs Python, numpy, tokenizers and onnxruntime.

    python infer.py "a text" "another one"
    python infer.py < lines.txt

prints one line per text: the likeliest label and its probability, or the score of a regression or a ranking, as
transformers' text-classification pipeline does. If a text may have several labels, these are all labels whose
probability reaches the label's threshold in config.json, and nothing if none does. `--all` prints every label. Label
and number, and one label and the next, have a tab between them. A model of text pairs takes two texts with a tab
between them.

Input and output are UTF-8. Windows line ends and a byte order mark are dropped; bytes that are not UTF-8 are read as
the replacement character U+FFFD; an empty line is an empty text; without input there is no output. A text that is too
long is cut to the tokens that the accuracy in verification.json was measured with. What cannot be classified ends the
program with one line on standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import codecs
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

_SURROGATES = re.compile("[\ud800-\udfff]")


class InputError(ValueError):
    """An input that cannot be classified; the message says why."""


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder, which cuts texts and does not pad."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    if tokenizer.truncation is None:  # somebody has saved it again
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        direction = settings.get("truncation_side", "right")
        tokenizer.enable_truncation(settings["model_max_length"], direction=direction)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, second: str | None = None) -> Encoding:
    """Return the tokens of a text or a pair. Raises `InputError` if there are none."""
    first, last = (None if part is None else _SURROGATES.sub("\ufffd", part) for part in (text, second))
    found = tokenizer.encode(first, last)
    if not found.ids:
        raise InputError("a text must have at least one token, but this one has none; leave it out")
    return found


def probabilities(logits: np.ndarray, problem_type: str | None) -> np.ndarray:
    """Return what transformers' pipeline makes of logits (labels,): scores if it is a regression."""
    if problem_type == "regression":
        return logits
    if problem_type == "multi_label_classification" or len(logits) == 1:
        return np.exp(-np.logaddexp(0.0, -logits))
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


class Classifier:
    """The tokenizer and the network of a folder."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.tokenizer = read_tokenizer(folder)
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]

    def logits(self, text: str, second: str | None = None) -> np.ndarray:
        """Return the logits of a text or a pair, (labels,). Texts go one by one, without padding."""
        tokens = encode(self.tokenizer, text, second)
        values = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.attention_mask,
            "token_type_ids": tokens.type_ids,
        }
        fed = {name: np.array([values[name]], dtype=np.int64) for name in self.inputs}
        logits: np.ndarray = self.session.run(["logits"], fed)[0][0]
        return logits

    def classify(self, text: str, second: str | None = None, *, every: bool = False) -> list[tuple[str, float]]:
        """Return the labels that apply and their probabilities, the likeliest first; of a single output the score.

        If a text has one label, that is the likeliest; with `every` all labels are returned.
        """
        problem_type, names = self.config.get("problem_type"), self.config.get("id2label", {})
        found = probabilities(self.logits(text, second), problem_type)
        order = np.argsort(-found, kind="stable")
        if not every and problem_type == "multi_label_classification" and len(found) > 1:
            order = order[(found >= np.asarray(self.config.get("thresholds", 0.5)))[order]]
        elif not every:
            order = order[:1]
        return [(names.get(str(label), f"LABEL_{label}"), float(found[label])) for label in order.tolist()]


def lines_of(stream: BinaryIO) -> Iterator[str]:
    """Yield the texts of a stream, one per line. Raises `InputError` for UTF-16."""
    for number, line in enumerate(stream):
        if number == 0 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise InputError("the input must be UTF-8, but is UTF-16; convert it")
        text = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
        if text:
            yield text.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")


def answers(classifier: Classifier, texts: Iterable[str], pairs: bool, every: bool = False) -> Iterator[str]:
    """Yield one line per text. Raises `InputError` that names the text by its number."""
    for number, text in enumerate(texts, start=1):
        parts = text.split("\t") if pairs else [text]
        try:
            if pairs and len(parts) != 2:
                raise InputError(
                    f"a pair must be two texts with one tab between them, but has {len(parts) - 1} tabs; correct it"
                )
            found = classifier.classify(*parts, every=every)
        except InputError as problem:
            raise InputError(f"text {number}: {problem}") from None
        yield "\t".join(f"{label}\t{value:.4f}" for label, value in found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Classify the texts that are given, or the lines of standard input."""
    parser = argparse.ArgumentParser(description="Classify texts with the model in this folder.")
    parser.add_argument("texts", nargs="*", help="texts; the lines of standard input if there are none")
    parser.add_argument("--pairs", action="store_true", help="each text is two, with a tab between them")
    parser.add_argument("--all", action="store_true", help="print every label, the likeliest first")
    asked = parser.parse_args(arguments)
    classifier = Classifier(Path(__file__).resolve().parent)
    pairs = asked.pairs or bool(classifier.config.get("text_pairs"))
    if not asked.texts and sys.stdin is not None and sys.stdin.isatty():
        print("Reading texts from the terminal, one per line.", file=sys.stderr)
    texts = asked.texts or (lines_of(sys.stdin.buffer) if sys.stdin is not None else [])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    try:
        for answer in answers(classifier, texts, pairs, asked.all):
            print(answer, flush=True)
    except InputError as problem:
        parser.exit(2, f"error: {problem}\n")
    except BrokenPipeError:  # whoever reads the answers has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        parser.exit(130)


if __name__ == "__main__":
    main()
