"""The former import path of `nas.model.tokenizer.load_tokenizer`, for programs outside of `nas` that still use it."""

from nas.model.tokenizer import load_tokenizer

__all__ = ["load_tokenizer"]
