"""The earlier import path of `nas.model.tokenizer.load_tokenizer`, kept for programs outside of `nas`."""

from nas.model.tokenizer import load_tokenizer

__all__ = ["load_tokenizer"]
