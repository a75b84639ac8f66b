"""Bar charts as HTML tables, for shares and durations."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from nas.report.svg import element


def bars(rows: Iterable[tuple[str, float, str]], total: tuple[str, str] | None = None) -> str:
    """Return a table as HTML. Each of `rows` is a name, a value and a text; a bar shows the value.

    `total` is the name and text of a last row without a bar.
    """
    rows = list(rows)
    longest = max((value for _, value, _ in rows), default=0.0) or 1.0
    body = "".join(
        _row(name, words, element("div", style=f"width:{100.0 * value / longest:.1f}%")) for name, value, words in rows
    )
    last = _row(*total, "", class_="total") if total else ""
    return element("table", element("tbody", body + last), class_="bars")


def _row(name: str, words: str, bar: str, class_: str = "") -> str:
    cells = element("th", escape(name), scope="row") + element("td", words, class_="number")
    return element("tr", cells + element("td", bar, class_="bar"), class_=class_)
