"""Recognises queries with passages among the texts of a data file."""

from __future__ import annotations

from nas.proposal.column import Column
from nas.proposal.names import QUERY_ID_WORDS, QUERY_WORDS

_LEAST_PASSAGES = 3
"""The smallest average number of rows per query at which rows may be passages to rank."""


def has_queries(column: Column, rows: int, distinct: int) -> bool:
    """Return whether a column contains queries, each of which has several passages.

    `column` is the first text column. It has `distinct` different texts in `rows` rows.
    """
    return not QUERY_WORDS.isdisjoint(column.words) and rows >= _LEAST_PASSAGES * distinct


def are_graded_passages(query: Column, passage: Column, grade: Column) -> bool:
    """Return whether pairs of texts are queries and passages with grades, rather than texts with a score.

    Grades are whole numbers of at least 0. Queries are recognised by the names of the columns, or because some rows
    have a passage but no query.
    """
    has_names = not QUERY_WORDS.isdisjoint(query.words) and QUERY_WORDS.isdisjoint(passage.words)
    numbers = grade.numbers or []
    are_grades = bool(numbers) and numbers[0] >= 0.0 and all(map(float.is_integer, numbers))
    return are_grades and (has_names or bool(query.missing and not passage.missing))


def is_query_id(column: Column) -> bool:
    """Return whether the name of a column suggests that it identifies queries, as `query_id` does."""
    return not QUERY_ID_WORDS.isdisjoint(column.words) and column.is_metadata
