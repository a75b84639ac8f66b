"""Classify texts, or tag their words, with the model in this folder.

It needs Python, numpy, tokenizers and onnxruntime.

    python infer.py "a text" "another one"
    python infer.py < lines.txt

prints one line per text: the likeliest label and its probability, or the score of a regression or a ranking, as
transformers' text-classification pipeline does. If a text may have several labels, these are all labels whose
probability reaches the label's threshold in config.json, and nothing if none does. `--all` prints every label. A model
that embeds texts prints the numbers of the embedding, with spaces between them. Label
and number, and one label and the next, have a tab between them. A model of text pairs takes two texts with a tab
between them.

A model that tags words prints the spans of each text with tabs between all values: type, first character, the character
behind the last one, and mean probability, as the token-classification pipeline does with aggregation_strategy="first".
Characters are counted from 0. With `--all` words outside of spans are printed as spans of the type O.

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
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

_SURROGATES = re.compile("[\ud800-\udfff]")


class InputError(ValueError):
    """An input that cannot be classified; the message says why."""


def unknown_token(folder: Path, tokenizer: Tokenizer) -> int | None:
    """Return the id of the unknown token of a folder's tokenizer; None if it has none."""
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    name = settings.get("unk_token")
    name = name["content"] if isinstance(name, dict) else name
    return None if name is None else tokenizer.token_to_id(name)


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


class Span(NamedTuple):
    """Words that follow each other and have one type."""

    type: str
    start: int
    end: int
    """The characters of the text from `start` to `end`, which is not included."""
    score: float
    """The mean probability of the words' tags."""


class Classifier:
    """The tokenizer and the network of a folder."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.tokenizer = read_tokenizer(folder)
        self.session = onnxruntime.InferenceSession(
            str(folder / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.unknown = unknown_token(folder, self.tokenizer)
        self.tags_words = self.config["architectures"][0].endswith("ForTokenClassification")
        self.embeds = "sentence_embedding" in [value.name for value in self.session.get_outputs()]

    def logits(self, text: str, second: str | None = None) -> np.ndarray:
        """Return the logits of a text or a pair, (labels,), or its embedding. Texts go one by one, without padding."""
        return self._run(encode(self.tokenizer, text, second))

    def _run(self, tokens: Encoding) -> np.ndarray:
        """Return the logits of a text, (labels,), or of its tokens, (tokens, labels), or the embedding of a text."""
        values = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.attention_mask,
            "token_type_ids": tokens.type_ids,
        }
        fed = {name: np.array([values[name]], dtype=np.int64) for name in self.inputs}
        logits: np.ndarray = self.session.run(["sentence_embedding" if self.embeds else "logits"], fed)[0][0]
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

    def spans(self, text: str, *, every: bool = False) -> list[Span]:
        """Return the spans of a text; with `every` those of the type O too."""
        tokens, found = encode(self.tokenizer, text), list[Span]()
        logits, names = self._run(tokens), self.config["id2label"]
        before, scores = "", list[float]()
        for first, end in self._words(tokens, text):
            found_here = probabilities(logits[first], None)
            tag = names[str(int(found_here.argmax()))]
            begins, kind = (tag[0], tag[2:]) if tag.startswith(("B-", "I-")) else ("I", tag)
            if found and kind == before and begins != "B":
                scores.append(float(found_here.max()))
                found[-1] = found[-1]._replace(end=end, score=float(np.mean(scores)))
            else:
                scores = [float(found_here.max())]
                found.append(Span(tag.split("-", 1)[-1], tokens.offsets[first][0], end, scores[0]))
            before = kind
        return [span for span in found if every or span.type != "O"]

    def _words(self, tokens: Encoding, text: str) -> list[tuple[int, int]]:
        """Return for each word the number of its first token, and the character behind its last one.

        What is one word is decided as transformers' pipeline does it.
        """
        is_marked = bool(getattr(self.tokenizer.model, "continuing_subword_prefix", None))
        found: list[tuple[int, int]] = []
        for number, (token, (start, end)) in enumerate(zip(tokens.tokens, tokens.offsets, strict=True)):
            if tokens.special_tokens_mask[number]:
                continue
            inside = len(token) != end - start if is_marked else start > 0 and " " not in text[start - 1 : start + 1]
            if found and inside and tokens.ids[number] != self.unknown:
                found[-1] = (found[-1][0], end)
            else:
                found.append((number, end))
        return found


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
            if classifier.tags_words:
                spans = classifier.spans(text, every=every)
                line = "\t".join(f"{span.type}\t{span.start}\t{span.end}\t{span.score:.4f}" for span in spans)
            elif classifier.embeds:
                line = " ".join(f"{value:.6f}" for value in classifier.logits(*parts).tolist())
            else:
                found = classifier.classify(*parts, every=every)
                line = "\t".join(f"{label}\t{value:.4f}" for label, value in found)
        except InputError as problem:
            raise InputError(f"text {number}: {problem}") from None
        yield line


def main(arguments: Sequence[str] | None = None) -> None:
    """Classify the texts that are given, or the lines of standard input."""
    parser = argparse.ArgumentParser(description="Classify texts, or tag their words, with the model in this folder.")
    parser.add_argument("texts", nargs="*", help="texts; the lines of standard input if there are none")
    parser.add_argument("--pairs", action="store_true", help="each text is two, with a tab between them")
    parser.add_argument("--all", action="store_true", help="print every label, the likeliest first, or every span")
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
