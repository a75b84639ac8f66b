"""The table of F1 per label, for the teacher and every export."""

from __future__ import annotations

from html import escape

from nas.report.contents import Contents, Record
from nas.report.numbers import points, score
from nas.report.svg import element


def label_table(contents: Contents) -> str:
    """Return a table of F1 on the test set as HTML, one row per label or entity type, the most frequent first.

    Empty if the verifications hold no scores per label.
    """
    teacher = next((found for key, found in contents.baselines.items() if key.endswith("/teacher")), {})
    verified = {"teacher": teacher, **contents.exports}
    networks = {name: found["labels"] for name, found in verified.items() if "labels" in found}
    if not networks:
        return ""
    first: Record = next(iter(networks.values()))
    (counted,) = next(iter(first.values())).keys() - {"precision", "recall", "f1"}
    names = sorted(first, key=lambda name: -first[name][counted])
    titles = ["label", counted, *networks]
    head = "".join(
        element("th", escape(title), scope="col", class_="words" if title == "label" else "number") for title in titles
    )
    body = ""
    for name in names:
        cells = [element("td", escape(name), data_label="label", class_="words")]
        cells.append(element("td", f"{first[name][counted]:,.0f}", data_label=counted, class_="number"))
        for network, found in networks.items():
            own = found[name]["f1"]
            lost = own - networks["teacher"][name]["f1"] if "teacher" in networks and network != "teacher" else 0.0
            shown = escape(score(own)) + (element("small", points(lost)) if lost else "")
            cells.append(element("td", element("div", shown), data_label=network, class_="number"))
        body += element("tr", "".join(cells))
    return element("table", element("thead", element("tr", head)) + element("tbody", body), class_="results")
