"""The answer of a run: how fast, how accurate and how large each export is beside its teacher."""

from __future__ import annotations

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
    points,
    score,
    significant,
    times,
)
from nas.report.svg import element

_KINDS = {"teacher": "teacher", "teacher-int8": "teacher, all int8"}


def cards(contents: Contents) -> str:
    """One card for each export, with the figure that the study was made for."""
    return element(
        "div", "".join(_card(contents, name, found) for name, found in contents.exports.items()), class_="cards"
    )


def _card(contents: Contents, name: str, found: Record) -> str:
    head = element("div", element("span", escape(name)) + _verdict(found), class_="name")
    big = element("div", times(found["speed_up"]) + "<small>the teacher's speed</small>", class_="big")
    lost = points(found["accuracy"] - found["teacher_accuracy"])
    lines = [
        ("", f"{contents.metric} {score(found['accuracy'], found['accuracy_standard_error'])}"),
        ("muted", f"{lost} against the teacher"),
        ("", ", ".join([f"p50 {milliseconds(found['p50_ms'])}", *other_figures(found)])),
        ("muted", f"asked for {', '.join(_limits(found))}"),
        ("", f"{significant(found['size_mb'])} MB, {found['params']:,} parameters"),
    ]
    return element(
        "div", head + big + "".join(element("p", escape(line), class_=kind) for kind, line in lines), class_="card"
    )


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
    return "words" if name in {"network", "budget", "met"} else "number"


def _limits(found: Record) -> list[str]:
    teacher = {name: value for name, value in [("p50_ms", found["teacher_p50_ms"])] if value is not None}
    return limits(Budget.model_validate(found["budget"]), teacher)


def _verdict(found: Record) -> str:
    if found["met"] is None:
        return f'<span class="muted">{UNKNOWN}</span>'
    return '<span class="met">✓ met</span>' if found["met"] else '<span class="missed">✗ missed</span>'
