"""The answer of a run: how fast, how accurate and how large each export is beside its teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from nas.budget import Budget
from nas.report.contents import Contents, Record
from nas.report.figures import (
    UNKNOWN,
    conditions,
    limits,
    milliseconds,
    other_figures,
    percent,
    points,
    score,
    significant,
    times,
)
from nas.report.svg import element

_KINDS = {"teacher": "teacher", "teacher-int8": "teacher, all int8", "static": "static: averaged word vectors"}


def cards(contents: Contents) -> str:
    """One card for each export, with the figure that the study was made for."""
    return element(
        "div", "".join(_card(contents, name, found) for name, found in contents.exports.items()), class_="cards"
    )


def _card(contents: Contents, name: str, found: Record) -> str:
    head = element("div", element("span", escape(name)) + _verdict(found), class_="name")
    big = element("div", times(found["speed_up"]) + "<small>the teacher's speed</small>", class_="big")
    lost = points(found["accuracy"] - found["teacher_accuracy"])
    asked = _limits(found)
    lines = [
        ("", f"{contents.metric} {score(found['accuracy'], found['accuracy_standard_error'])}"),
        ("muted", f"{lost} against the teacher"),
        ("", ", ".join([f"p50 {milliseconds(found['p50_ms'])}", *other_figures(found)])),
        ("muted", f"asked for {', '.join(asked)}" if asked else "one candidate, for no budget"),
        ("", f"{significant(found['size_mb'])} MB, {found['params']:,} parameters"),
        ("muted", _share_of_teacher(contents, found)),
        ("", _fine_tuning(found)),
        ("muted", _agreement(found)),
        ("muted", _kept(found)),
    ]
    body = "".join(element("p", escape(line), class_=kind) for kind, line in lines if line)
    return element("div", head + big + body, class_="card")


def warning(contents: Contents) -> str:
    """What is to be read first: exports that are no better than averaged word vectors; nothing if all are."""
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
            took = f" at {milliseconds(static['p50_ms'])}" if static["p50_ms"] is not None else ""
            lines.append(
                f"Averaged word vectors with a linear classifier reach {own} on the test set{took} and "
                f"{significant(static['size_mb'])} MB: as good, within one standard error, as {others}. Such a model "
                "may be all that the task needs."
            )
    return "".join(element("p", element("strong", escape(line))) for line in lines)


def _share_of_teacher(contents: Contents, found: Record) -> str:
    teacher = contents.baselines.get(f"{found['device']}/teacher") if "device" in found else None
    return f"{percent(found['size_mb'] / teacher['size_mb'])} of the teacher's file" if teacher else ""


def _kept(found: Record) -> str:
    """How a floor is kept, on the search set."""
    if found.get("floor") is None:
        return ""
    return (
        f"to be kept on the search set: {score(found['floor'])}; it has {score(found['search_accuracy'])} there, the "
        f"teacher {score(found['teacher_search_accuracy'])}"
    )


def _fine_tuning(found: Record) -> str:
    """What it brought, on the search set."""
    if not found.get("fine_tuned"):
        return ""
    return (
        f"fine-tuning: {score(found['search_accuracy_inherited'])} to {score(found['search_accuracy'])} "
        "on the search set"
    )


def _agreement(found: Record) -> str:
    """How far the served file and the Hugging Face folder are the same network."""
    same = found.get("agreement_with_hugging_face")
    return "" if same is None else f"its Hugging Face folder gives the same answer to {percent(same)} of the texts"


def against_uniform(contents: Contents) -> str:
    """Each budget's best candidate beside the best network that is equally wide in every layer."""
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
    titles = (("budget", "budget"), ("found", "best of the search"), ("uniform", "best uniform"), ("difference", ""))
    head = "".join(element("th", title or "difference", scope="col", class_=_words(name)) for name, title in titles)
    all_measured = all(item.get("measured", True) for item in shown)
    taken = "p50 measured in the same way" if all_measured else "p50 predicted where it says so, else measured"
    metric, examples = contents.metric, front.get("search_examples", 0)
    note = (
        f"Uniform networks have the same heads and intermediate size in every layer, of which they keep evenly spaced "
        f"ones, and are int8 throughout or not at all; for each number of layers and hidden size the widest that keeps "
        f"the budget was evaluated. Both columns: {metric} on the {examples:,} texts of the search set, with the same "
        f"supernet's weights before any fine-tuning, and {taken}. What was found was chosen from "
        "more networks by that very figure, which flatters it."
    )
    if front.get("floors"):
        note += (
            " Of a budget that asks for an accuracy one candidate near it is shown, beside the best uniform network "
            "that costs no more."
        )
    if metric == "accuracy" and examples:
        shares = [item["search_accuracy"] for item in front["uniform"].values() if item]
        error = max(math.sqrt(share * (1.0 - share) / examples) for share in shares)
        note += f" One standard error of a figure: {100.0 * error:.1f} points."
    body = element("table", element("thead", element("tr", head)) + element("tbody", rows), class_="results")
    return element("h3", "What the search brought") + body + element("p", escape(note), class_="note")


def _short(item: Record) -> str:
    how = "" if item.get("measured", True) else " predicted"
    figures = f"{score(item['search_accuracy'])} at {milliseconds(item['p50_ms'])}{how}"
    return escape(figures) + element("small", element("code", escape(item["description"])))


def table(contents: Contents) -> str:
    """Teachers and exports, one row each."""
    metric = f"{contents.metric} on the test set"
    names = ["network", metric, "p50", "speed-up", "size", "parameters", "budget", "met"]
    head = "".join(element("th", escape(name), scope="col", class_=_words(name)) for name in names)
    body = "".join(
        element("tr", "".join(_cell(*cell) for cell in zip(names, cells, strict=True)), class_=kind)
        for kind, cells in _rows(contents)
    )
    return element("table", element("thead", element("tr", head)) + element("tbody", body), class_="results")


def measured_how(contents: Contents) -> str:
    """Under which conditions the latencies of the table were taken, one sentence a device."""
    found: dict[str, str] = {}
    for record in (*contents.baselines.values(), *contents.exports.values()):
        for own in record.get("devices", {"": record}).values():
            if "latency" in own:  # not measured yet otherwise
                device = own["latency"]["device"]
                found.setdefault(device["name"], conditions(device, own["environment"]))
    return "; ".join(f"{name}: {text}" for name, text in found.items())


def _rows(contents: Contents) -> Iterator[tuple[str, list[str]]]:
    """Class of the row and the markup of its cells."""
    several = len(contents.devices) > 1
    for key, found in contents.baselines.items():
        device, kind = key.split("/", 1)
        name = _KINDS.get(kind, kind) + (f" on {device}" if several else "")
        yield "teacher", [escape(name), *_figures(found), "", ""]
    for name, found in contents.exports.items():
        asked = element("small", escape(", ".join(_limits(found))))
        description = element("small", element("code", escape(found["description"])))
        yield "export", [escape(name) + description, *_figures(found), asked, _verdict(found)]


def _figures(found: Record) -> list[str]:
    lost = found["accuracy"] - found["teacher_accuracy"]
    return [
        escape(score(found["accuracy"], found["accuracy_standard_error"]))
        + (element("small", points(lost)) if lost else ""),
        milliseconds(found["p50_ms"])
        + element("small", ", ".join([f"p95 {milliseconds(found['p95_ms'])}", *other_figures(found)])),
        times(found["speed_up"]),
        f"{significant(found['size_mb'])} MB",
        f"{found['params']:,}",
    ]


def _cell(name: str, content: str) -> str:
    return element("td", element("div", content) if content else "", data_label=name, class_=_words(name))


def _words(name: str) -> str:
    """Words stand to the left, figures to the right."""
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
