"""Classify, score or embed texts, or tag their words, with the model in this folder.

The program needs Python, numpy, tokenizers and onnxruntime.

    python infer.py "a text" "another one"
    python infer.py < lines.txt

The program prints one line per text. A classifier prints the most likely label and its probability, separated by a tab.
A regression or ranking model prints the name of its output and the score. The numbers equal those of transformers'
text-classification pipeline. If a text may have several labels, the line lists each label whose probability reaches the
label's threshold in config.json, followed by the probability. All values are separated by tabs. If no label reaches its
threshold, the line is empty. `--all` prints every label. An embedding model prints the values of the embedding,
separated by spaces. A model for text pairs requires two texts as each input, separated by a tab.

A model that tags words prints one line per text with the type, start, end and mean probability of each span, separated
by tabs. A span is a sequence of consecutive words of the same type. Start is the position of the span's first
character, counted from 0, and end is the position after its last character. The spans are those of the
token-classification pipeline with aggregation_strategy="first". `--all` also prints the words outside of spans, as
spans of type O.

Input and output are UTF-8. Windows line endings and a byte order mark are removed. Bytes that are not valid UTF-8 are
replaced by the character U+FFFD. An empty line is an empty text. Without input, the program prints nothing. Texts are
truncated to the length with which the accuracy in verification.json was measured. If an input cannot be processed, the
program prints one line to standard error and ends with exit code 2.
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
_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


class InputError(ValueError):
    """Raised for an input that cannot be processed; the message says why."""


def unknown_token(folder: Path, tokenizer: Tokenizer) -> int | None:
    """Return the id of the unknown token of a folder's tokenizer, or None if there is none."""
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    name = settings.get("unk_token")
    name = name["content"] if isinstance(name, dict) else name
    return None if name is None else tokenizer.token_to_id(name)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder. The tokenizer truncates texts, but does not pad them."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    if tokenizer.truncation is None:  # this setting is lost if someone saves the tokenizer again
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        direction = settings.get("truncation_side", "right")
        tokenizer.enable_truncation(settings["model_max_length"], direction=direction)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, second: str | None = None) -> Encoding:
    """Return the tokens of a text or text pair. Raises `InputError` if there are no tokens."""
    first, last = (None if part is None else _SURROGATES.sub("\ufffd", part) for part in (text, second))
    found = tokenizer.encode(first, last)
    if not found.ids:
        raise InputError("a text must have at least one token, but this text has none; remove the text")
    return found


def probabilities(logits: np.ndarray, problem_type: str | None) -> np.ndarray:
    """Return the probabilities that transformers' pipeline computes from `logits`, (labels,).

    If `problem_type` is "regression", the logits are scores and are returned unchanged.
    """
    if problem_type == "regression":
        return logits
    if problem_type == "multi_label_classification" or len(logits) == 1:
        return np.exp(-np.logaddexp(0.0, -logits))
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


class Span(NamedTuple):
    """A sequence of consecutive words that have the same type."""

    type: str
    start: int
    end: int
    """The position after the last character of the span. `start` is the position of the first character."""
    score: float
    """The mean probability of the tags of all words in the span."""


class Classifier:
    """The tokenizer and the network in an export's folder. ONNX Runtime runs the network on the CPU."""

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
        """Return the logits (labels,) or the embedding of one text or text pair. The text is not padded."""
        return self._run(encode(self.tokenizer, text, second))

    def _run(self, tokens: Encoding) -> np.ndarray:
        """Return the network's output for a text: logits (labels,), logits (tokens, labels) or an embedding."""
        values = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.attention_mask,
            "token_type_ids": tokens.type_ids,
        }
        inputs = {name: np.array([values[name]], dtype=np.int64) for name in self.inputs}
        logits: np.ndarray = self.session.run(["sentence_embedding" if self.embeds else "logits"], inputs)[0][0]
        return logits

    def classify(self, text: str, second: str | None = None, *, every: bool = False) -> list[tuple[str, float]]:
        """Return (label, probability) pairs for a text, the most likely label first.

        If a text can have several labels, the result has the labels that reach their thresholds. Otherwise, the result
        has only the most likely label. With `every`, the result has all labels. For a model with a single output, the
        result is the name and the score of the output.
        """
        problem_type, names = self.config.get("problem_type"), self.config.get("id2label", {})
        label_probabilities = probabilities(self.logits(text, second), problem_type)
        order = np.argsort(-label_probabilities, kind="stable")
        if not every and problem_type == "multi_label_classification" and len(label_probabilities) > 1:
            order = order[(label_probabilities >= np.asarray(self.config.get("thresholds", 0.5)))[order]]
        elif not every:
            order = order[:1]
        return [
            (names.get(str(label), f"LABEL_{label}"), float(label_probabilities[label])) for label in order.tolist()
        ]

    def spans(self, text: str, *, every: bool = False) -> list[Span]:
        """Return the spans of a text. With `every`, words outside of spans are returned as spans of type O."""
        tokens, found_spans = encode(self.tokenizer, text), list[Span]()
        logits, names = self._run(tokens), self.config["id2label"]
        previous_kind, scores = "", list[float]()
        for first, end in self._words(tokens, text):
            tag_probabilities = probabilities(logits[first], None)
            tag = names[str(int(tag_probabilities.argmax()))]
            begins, kind = (tag[0], tag[2:]) if tag.startswith(("B-", "I-")) else ("I", tag)
            if found_spans and kind == previous_kind and begins != "B":
                scores.append(float(tag_probabilities.max()))
                found_spans[-1] = found_spans[-1]._replace(end=end, score=float(np.mean(scores)))
            else:
                scores = [float(tag_probabilities.max())]
                found_spans.append(Span(tag.split("-", 1)[-1], tokens.offsets[first][0], end, scores[0]))
            previous_kind = kind
        return [span for span in found_spans if every or span.type != "O"]

    def _words(self, tokens: Encoding, text: str) -> list[tuple[int, int]]:
        """Return, for each word, the index of its first token and the position after its last character.

        Tokens are grouped into words as in transformers' pipeline.
        """
        is_marked = bool(getattr(self.tokenizer.model, "continuing_subword_prefix", None))
        words: list[tuple[int, int]] = []
        for number, (token, (start, end)) in enumerate(zip(tokens.tokens, tokens.offsets, strict=True)):
            if tokens.special_tokens_mask[number]:
                continue
            continues_word = (
                len(token) != end - start if is_marked else start > 0 and " " not in text[start - 1 : start + 1]
            )
            if words and continues_word and tokens.ids[number] != self.unknown:
                words[-1] = (words[-1][0], end)
            else:
                words.append((number, end))
        return words


def printable(label: str) -> str:
    """Return a label without tabs and line breaks, which separate fields and texts in the output."""
    return label.translate(_ESCAPES)


def lines_of(stream: BinaryIO) -> Iterator[str]:
    """Yield each line of a stream as a text. Raises `InputError` if the stream is UTF-16."""
    for number, line in enumerate(stream):
        if number == 0 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise InputError("the input must be UTF-8, but it is UTF-16; convert it to UTF-8")
        text = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
        if text:
            yield text.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")


def answers(classifier: Classifier, texts: Iterable[str], pairs: bool, every: bool = False) -> Iterator[str]:
    """Yield one line of output per text.

    Raises `InputError` if a text cannot be processed. The message contains the number of the text.
    """
    for number, text in enumerate(texts, start=1):
        parts = text.split("\t") if pairs else [text]
        try:
            if pairs and len(parts) != 2:
                raise InputError(
                    f"a pair must be two texts with one tab between them, but has {len(parts) - 1} tabs; use one tab"
                )
            if classifier.tags_words:
                spans = classifier.spans(text, every=every)
                line = "\t".join(
                    f"{printable(span.type)}\t{span.start}\t{span.end}\t{span.score:.4f}" for span in spans
                )
            elif classifier.embeds:
                line = " ".join(f"{value:.6f}" for value in classifier.logits(*parts).tolist())
            else:
                labels = classifier.classify(*parts, every=every)
                line = "\t".join(f"{printable(label)}\t{value:.4f}" for label, value in labels)
        except InputError as problem:
            raise InputError(f"text {number}: {problem}") from None
        yield line


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the model on the texts in `arguments` or, if there are none, on the lines of standard input."""
    parser = argparse.ArgumentParser(
        description="Classify, score or embed texts, or tag their words, with the model in this folder."
    )
    parser.add_argument("texts", nargs="*", help="texts; if none are given, the lines of standard input are read")
    parser.add_argument(
        "--pairs", action="store_true", help="treat each input as a pair of texts with a tab between them"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="print every label, the most likely first; if the model tags words, also print words outside of spans (O)",
    )
    options = parser.parse_args(arguments)
    classifier = Classifier(Path(__file__).resolve().parent)
    pairs = options.pairs or bool(classifier.config.get("text_pairs"))
    if not options.texts and sys.stdin is not None and sys.stdin.isatty():
        print("Reading texts from the terminal, one per line.", file=sys.stderr)
    texts = options.texts or (lines_of(sys.stdin.buffer) if sys.stdin is not None else [])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    try:
        for answer in answers(classifier, texts, pairs, options.all):
            print(answer, flush=True)
    except InputError as problem:
        parser.exit(2, f"error: {problem}\n")
    except BrokenPipeError:  # the program that reads the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as problem:  # such as a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        parser.exit(2, f"error: the output cannot be written: {problem.strerror}; redirect it to another place\n")
    except KeyboardInterrupt:
        parser.exit(130)


if __name__ == "__main__":
    main()
