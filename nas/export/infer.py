"""Classify texts with the model in this folder. It needs Python, numpy, tokenizers and onnxruntime.

    python infer.py "a text" "another one"
    python infer.py < lines.txt

prints one line a text: the likeliest label and its probability, or the score of a regression. With `--pairs` a line
holds two texts with a tab between them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Classifier:
    """The tokenizer and the network of a folder."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(settings["model_max_length"])
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]

    def logits(self, text: str, second: str | None = None) -> np.ndarray:
        """The logits of a text or a pair, (labels,). Texts go one by one, without padding."""
        tokens = self.tokenizer.encode(text, second)
        values = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.attention_mask,
            "token_type_ids": tokens.type_ids,
        }
        fed = {name: np.array([values[name]], dtype=np.int64) for name in self.inputs}
        logits: np.ndarray = self.session.run(["logits"], fed)[0][0]
        return logits

    def classify(self, text: str, second: str | None = None) -> tuple[str, float]:
        """The likeliest label and its probability; the one label of a regression and its score."""
        logits = self.logits(text, second)
        best = int(logits.argmax())
        label = self.config.get("id2label", {}).get(str(best), f"LABEL_{best}")
        if len(logits) == 1:
            return label, float(logits[0])
        weights = np.exp(logits - logits[best])
        return label, float(weights[best] / weights.sum())


def main(arguments: Sequence[str] | None = None) -> None:
    """Classify the texts that are given, or the lines of standard input."""
    parser = argparse.ArgumentParser(description="Classify texts with the model in this folder.")
    parser.add_argument("texts", nargs="*", help="texts; the lines of standard input where there are none")
    parser.add_argument("--pairs", action="store_true", help="each text is two, with a tab between them")
    asked = parser.parse_args(arguments)
    classifier = Classifier(Path(__file__).resolve().parent)
    for line in asked.texts or sys.stdin:
        text = line.rstrip("\n")
        if asked.pairs and text.count("\t") != 1:
            parser.error(f"--pairs: a line must be two texts with one tab between them, but got {text!r}; correct it")
        label, value = classifier.classify(*(text.split("\t") if asked.pairs else [text]))
        print(f"{label}\t{value:.4f}", flush=True)


if __name__ == "__main__":
    main()
