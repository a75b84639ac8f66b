"""A table of one query's passages, with the rank and score that the teacher and every export give to each.

Only runs of ranking tasks record these; see `Metric.rows_to_compare`.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from nas.report.contents import Contents, Record
from nas.report.svg import element


def compared_table(contents: Contents) -> str:
    """Return the table as HTML, one row per pair, best score of the teacher first; empty if no outputs were recorded.

    A text that all rows have in common, such as the query, is shown once above the table.
    """
    teacher = next((found for key, found in contents.baselines.items() if key.endswith("/teacher")), {})
    verified = {"teacher": teacher, **contents.exports}
    networks: dict[str, Record] = {name: found["shown"] for name, found in verified.items() if "shown" in found}
    if not networks:
        return ""
    first = next(iter(networks.values()))
    rows = sorted((row for row in first if row in contents.sample), key=lambda row: -first[row]["output"][0])
    ranks = {name: _ranks(found) for name, found in networks.items()}
    texts = {row: contents.sample[row] for row in rows}
    shared = [number for number in range(2) if len({own[number] for own in texts.values()}) == 1 < len(texts)]
    above = "".join(element("p", element("strong", escape(texts[rows[0]][number]))) for number in shared)
    titles = ["text", "label", *networks]
    head = "".join(
        element("th", escape(title), scope="col", class_="words" if title == "text" else "number") for title in titles
    )
    body = ""
    for row in rows:
        words = " | ".join(text for number, text in enumerate(texts[row]) if number not in shared)
        cells = [element("td", escape(words), data_label="text", class_="words")]
        cells.append(element("td", f"{first[row]['label']:g}", data_label="label", class_="number"))
        for name, found in networks.items():
            shown = str(ranks[name][row]) + element("small", f"{found[row]['output'][0]:.2f}")
            cells.append(element("td", element("div", shown), data_label=name, class_="number"))
        body += element("tr", "".join(cells))
    return above + element("table", element("thead", element("tr", head)) + element("tbody", body), class_="results")


def _ranks(found: Record) -> Mapping[str, int]:
    """Return the rank of each row by a network's outputs; the highest output has rank 1."""
    order = sorted(found, key=lambda row: -found[row]["output"][0])
    return {row: rank for rank, row in enumerate(order, start=1)}
