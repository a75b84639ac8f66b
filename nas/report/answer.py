"""The results section of the report: accuracy, latency and size of each export, compared with its teacher.

`nas.report.page` puts the parts together: a card per export, the table of all measured networks, a warning if word
vectors are as good, and the comparison with uniform networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from nas.budget import Budget
from nas.report.contents import Contents, Record
from nas.report.numbers import (
    UNKNOWN,
    conditions,
    limits,
    milliseconds,
    other_metrics,
    percent,
    points,
    score,
    significant,
    times,
)
from nas.report.svg import element

_KINDS = {"teacher": "teacher", "teacher-int8": "teacher, int8 throughout", "static": "static: averaged word vectors"}


def cards(contents: Contents) -> str:
    """Return one card per export as HTML, with its speed-up over the teacher in large type."""
    return element(
        "div", "".join(_card(contents, name, found) for name, found in contents.exports.items()), class_="cards"
    )


def _card(contents: Contents, name: str, found: Record) -> str:
    head = element("div", element("span", escape(name)) + _verdict(found), class_="name")
    big = element("div", times(found["speed_up"]) + "<small>speed-up over the teacher</small>", class_="big")
    lost = points(found["accuracy"] - found["teacher_accuracy"])
    asked = _limits(found)
    lines = [
        ("", f"{contents.metric} {score(found['accuracy'], found['accuracy_standard_error'])}"),
        ("muted", f"{lost} compared with the teacher"),
        ("", ", ".join([f"p50 {milliseconds(found['p50_ms'])}", *other_metrics(found)])),
        ("muted", f"budget: {', '.join(asked)}" if asked else "single candidate, exported without a budget"),
        ("", f"{significant(found['size_mb'])} MB, {found['params']:,} parameters"),
        ("muted", _share_of_teacher(contents, found)),
        ("", _fine_tuning(found)),
        ("muted", _agreement(found)),
        ("muted", _kept(found)),
    ]
    body = "".join(element("p", escape(line), class_=kind) for kind, line in lines if line)
    return element("div", head + big + body, class_="card")


def warning(contents: Contents) -> str:
    """Return a warning, as HTML, about exports that are no better than averaged word vectors.

    Empty if all exports are better.
    """
    lines = []
    for key, static in contents.baselines.items():
        device, kind = key.split("/", 1)
        if kind != "static":
            continue
        error = static["accuracy_standard_error"] or 0.0
        beaten = {name: found for name, found in contents.exports.items() if found.get("device", device) == device}
        beaten = {name: found for name, found in beaten.items() if found["accuracy"] <= static["accuracy"] + error}
        if beaten:
            own = score(static["accuracy"], static["accuracy_standard_error"])
            others = ", ".join(f"{name} ({score(found['accuracy'])})" for name, found in beaten.items())
            took = f", a latency of {milliseconds(static['p50_ms'])}" if static["p50_ms"] is not None else ""
            lines.append(
                f"A linear classifier on averaged word vectors has a test score of {own}{took} and a size of "
                f"{significant(static['size_mb'])} MB. These exports are not better by more than one standard error: "
                f"{others}. Such a simple model may be sufficient for this task."
            )
    return "".join(element("p", element("strong", escape(line))) for line in lines)


def _share_of_teacher(contents: Contents, found: Record) -> str:
    teacher = contents.baselines.get(f"{found['device']}/teacher") if "device" in found else None
    return f"{percent(found['size_mb'] / teacher['size_mb'])} of the teacher's file size" if teacher else ""


def _kept(found: Record) -> str:
    """Return how an export compares with its accuracy floor on the search set; empty if its budget has no floor."""
    if found.get("floor") is None:
        return ""
    return (
        f"accuracy floor on the search set: {score(found['floor'])}; this network has "
        f"{score(found['search_accuracy'])}, the teacher {score(found['teacher_search_accuracy'])}"
    )


def _fine_tuning(found: Record) -> str:
    """Return the search-set score before and after the final training; empty if there was none."""
    if not found.get("fine_tuned"):
        return ""
    return (
        f"final training: from {score(found['search_accuracy_inherited'])} to {score(found['search_accuracy'])} "
        "on the search set"
    )


def _agreement(found: Record) -> str:
    """Return, as a clause, on what share of the test set the served file and the Hugging Face model agree."""
    same = found.get("agreement_with_hugging_face")
    return "" if same is None else f"served file and Hugging Face model agree on {percent(same)} of the texts"


def against_uniform(contents: Contents) -> str:
    """Return a table that compares the best candidate of each budget with its best uniform network, as HTML.

    Empty if no uniform network was found for any budget.
    """
    front = contents.front or {}
    rows, shown = "", list[Record]()
    for name, other in front.get("uniform", {}).items():
        against = (other or {}).get("against")
        met = (item for item in front["budgets"].get(name, ()) if item["met"])
        own = next((item for item in met if against in (None, item["digest"])), None)
        if not own or not other:
            continue
        shown += [own, other]
        gained = points(own["search_accuracy"] - other["search_accuracy"])
        cells = [("budget", escape(name)), ("found", _short(own)), ("uniform", _short(other)), ("difference", gained)]
        rows += element("tr", "".join(_cell(title, content) for title, content in cells), class_="export")
    if not rows:
        return ""
    titles = (
        ("budget", "budget"),
        ("found", "best candidate"),
        ("uniform", "best uniform network"),
        ("difference", ""),
    )
    head = "".join(element("th", title or "difference", scope="col", class_=_alignment(name)) for name, title in titles)
    all_measured = all(item.get("measured", True) for item in shown)
    taken = "p50 measured in the same way" if all_measured else "p50 measured unless it is marked as predicted"
    metric, examples = contents.metric, front.get("search_examples", 0)
    note = (
        f"A uniform network keeps evenly spaced layers of the teacher, has the same number of heads and the same "
        f"intermediate size in every layer, and is either int8 throughout or not compressed. For each number of "
        f"layers, hidden size and number format, the widest network that was predicted to meet the budget was "
        f"evaluated. Both columns show {metric} on the {examples:,} texts of the search set, with the weights of the "
        f"same supernet before the final training, and {taken}. The comparison favours the search, because its "
        "best candidate was selected from more networks by this same score."
    )
    if front.get("floors"):
        note += (
            " For a budget with an accuracy floor, the table shows one candidate near the floor and the best uniform "
            "network that costs no more than this candidate."
        )
    if metric == "accuracy" and examples:
        shares = [item["search_accuracy"] for item in front["uniform"].values() if item]
        error = max(math.sqrt(share * (1.0 - share) / examples) for share in shares)
        note += f" The standard error of each score is about {100.0 * error:.1f} points."
    body = element("table", element("thead", element("tr", head)) + element("tbody", rows), class_="results")
    return element("h3", "Gain over uniform networks") + body + element("p", escape(note), class_="note")


def _short(item: Record) -> str:
    how = "" if item.get("measured", True) else " predicted"
    figures = f"{score(item['search_accuracy'])} at {milliseconds(item['p50_ms'])}{how}"
    return escape(figures) + element("small", element("code", escape(item["description"])))


def table(contents: Contents) -> str:
    """Return the table of results as HTML, with one row per baseline and per export."""
    metric = f"{contents.metric} on the test set"
    names = ["network", metric, "p50", "speed-up", "size", "parameters", "budget", "met"]
    head = "".join(element("th", escape(name), scope="col", class_=_alignment(name)) for name in names)
    body = "".join(
        element("tr", "".join(_cell(*cell) for cell in zip(names, cells, strict=True)), class_=kind)
        for kind, cells in _rows(contents)
    )
    return element("table", element("thead", element("tr", head)) + element("tbody", body), class_="results")


def measured_how(contents: Contents) -> str:
    """Return the conditions under which the latencies in the table were measured, for each device."""
    found: dict[str, str] = {}
    for record in (*contents.baselines.values(), *contents.exports.values()):
        for own in record.get("devices", {"": record}).values():
            if "latency" in own:  # absent until the network is measured on that device
                device = own["latency"]["device"]
                found.setdefault(device["name"], conditions(device, own["environment"]))
    return "; ".join(f"{name}: {text}" for name, text in found.items())


def _rows(contents: Contents) -> Iterator[tuple[str, list[str]]]:
    """Yield the CSS class and the cells, as HTML, of each row."""
    several = len(contents.devices) > 1
    for key, found in contents.baselines.items():
        device, kind = key.split("/", 1)
        name = _KINDS.get(kind, kind) + (f" on {device}" if several else "")
        yield "teacher", [escape(name), *_metrics(found), "", ""]
    for name, found in contents.exports.items():
        asked = element("small", escape(", ".join(_limits(found))))
        description = element("small", element("code", escape(found["description"])))
        yield "export", [escape(name) + description, *_metrics(found), asked, _verdict(found)]


def _metrics(found: Record) -> list[str]:
    lost = found["accuracy"] - found["teacher_accuracy"]
    return [
        escape(score(found["accuracy"], found["accuracy_standard_error"]))
        + (element("small", points(lost)) if lost else ""),
        milliseconds(found["p50_ms"])
        + element("small", ", ".join([f"p95 {milliseconds(found['p95_ms'])}", *other_metrics(found)])),
        times(found["speed_up"]),
        f"{significant(found['size_mb'])} MB",
        f"{found['params']:,}",
    ]


def _cell(name: str, content: str) -> str:
    return element("td", element("div", content) if content else "", data_label=name, class_=_alignment(name))


def _alignment(name: str) -> str:
    """Return the CSS class of a column: words are aligned to the left, numbers to the right."""
    return "words" if name in {"network", "budget", "met", "found", "uniform"} else "number"


def _limits(found: Record) -> list[str]:
    if not found["budget"]:
        return []
    teacher = {name: value for name, value in [("p50_ms", found["teacher_p50_ms"])] if value is not None}
    return limits(Budget.model_validate(found["budget"]), teacher)


def _verdict(found: Record) -> str:
    if not found["budget"]:
        return ""
    if found["met"] is None:
        return f'<span class="muted">{UNKNOWN}</span>'
    return '<span class="met">✓ met</span>' if found["met"] else '<span class="missed">✗ missed</span>'
