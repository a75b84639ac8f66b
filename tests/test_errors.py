"""Wording of messages."""

from __future__ import annotations

from nas.errors import listed


def test_names_are_listed_in_words():
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b or c"
    assert listed(iter(["a", "b"]), "and") == "a and b"
