"""The report: one HTML page that opens anywhere, with no network and nothing beside it."""

from __future__ import annotations

import json
from html import escape

from nas.errors import NasError
from nas.report.answer import cards, measured_how, table
from nas.report.architecture_drawing import architecture_drawing, architectures_of, choices_legend, choices_of
from nas.report.contents import Contents, Record
from nas.report.figures import duration, limits, order_of_step, percent
from nas.report.front_chart import front_chart, legend
from nas.report.latency_chart import latency_chart, measured_networks
from nas.report.loss_chart import loss_chart
from nas.report.style import page_script, page_style
from nas.report.svg import element


def render(contents: Contents) -> str:
    """The page. Raises `NasError` where the run holds nothing to report yet."""
    if contents.is_empty:
        raise NasError(f"{contents.study}: there is nothing to report yet; run `nas search` or `nas run` first")
    sections = (_answer, _front, _architectures, _latency, _training, _times, _loading)
    title = escape(f"{contents.study}: compact BERTs within a latency budget")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title>{page_style()}"
    )
    main = element("main", _heading(contents) + "".join(section(contents) for section in sections))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{main}\n{page_script()}</body></html>\n'


def _section(title: str, body: str, class_: str = "") -> str:
    return "\n" + element("section", element("h2", escape(title)) + body, class_=class_)


def _note(words: str) -> str:
    return element("p", escape(words), class_="note")


def _heading(contents: Contents) -> str:
    teacher = contents.teacher
    shape = (
        f"Teacher: {teacher.num_hidden_layers} layers, hidden size {teacher.hidden_size}, "
        f"{teacher.num_attention_heads} heads, intermediate size {teacher.intermediate_size:,}."
    )
    several = len(contents.devices) > 1
    asked = [f"{budget.name} ({', '.join(limits(budget, {}, several))})" for budget in contents.budgets]
    budgets = f" Budgets: {'; '.join(asked)}." if asked else ""
    return element("h1", escape(contents.study)) + element("p", escape(shape + budgets), class_="muted")


def _answer(contents: Contents) -> str:
    if not contents.exports and not contents.baselines:
        return ""
    missing = [budget.name for budget in contents.budgets if budget.name not in contents.exports]
    note = "Everything in this table was measured on the written files, reloaded from disk"
    note += f" ({measured_how(contents)}); the teacher was timed in turns with each network."
    body = (cards(contents) if contents.exports else "") + table(contents) + _note(note)
    if missing:
        body += _note(f"No export yet for {', '.join(missing)}.")
    return _section("What came out", body)


def _front(contents: Contents) -> str:
    if not contents.front or not contents.searched_devices:
        return ""
    evaluated, best = len(contents.front["candidates"]), len(contents.front["front"])
    skipped = contents.front["outcomes"].get("over_budget", 0)
    note = (
        f"{evaluated} candidates were evaluated with the supernet's weights, {best} of them form the front; "
        f"{skipped} proposals were predicted to miss every budget and cost no evaluation. A candidate stands at its "
        "predicted latency. An export stands where it was measured; its dashed line begins at its candidate and shows "
        "the error of the prediction and what fine-tuning changed on the search set. Triangles lie below the axis."
    )
    charts = "".join(element("figure", front_chart(contents, device)) for device in contents.searched_devices)
    return _section("The Pareto front", _note(note) + charts + legend())


def _architectures(contents: Contents) -> str:
    if not contents.exports:
        return ""
    architectures = architectures_of(contents.exports.values())
    choices = choices_of(architectures)
    note = "Bars are in proportion to the teacher's sizes; their colour says what was done to the weights of the block."
    figures = ""
    for name, architecture in zip(contents.exports, architectures, strict=True):
        label = f"Architecture exported for {name}"
        picture = architecture_drawing(architecture, contents.teacher, choices, label)
        caption = element("figcaption", element("code", escape(architecture.describe())))
        figures += element("figure", element("h3", escape(name)) + caption + picture)
    body = _note(note) + choices_legend(choices) + element("div", figures, class_="side-by-side")
    return _section("The exported architectures", body)


def _latency(contents: Contents) -> str:
    body = ""
    for device, profile in contents.profiles.items():
        chart = element("figure", latency_chart(contents, device))
        body += element("h3", escape(device)) + element(
            "div", chart + element("div", _error_facts(contents, device, profile)), class_="side-by-side"
        )
    note = (
        "Predictions only steer the search; budgets are judged on measured latency. Dots are random networks that the "
        "prediction was not fitted to, rings are candidates and exports measured whole. On the dashed line both agree."
    )
    return _section("Predicted and measured latency", _note(note) + body, "long") if body else ""


def _error_facts(contents: Contents, device: str, profile: Record) -> str:
    error = profile["error"]
    facts = [
        ("mean error (MAPE)", percent(error["mape"])),
        ("worst error", percent(error["worst"])),
        ("Kendall tau of the ranking", f"{error['kendall_tau']:.3f}"),
        ("held-out networks", f"{error['networks']:.0f}"),
    ]
    errors = [abs(predicted - measured) / measured for _, predicted, measured in measured_networks(contents, device)]
    if errors:
        facts.append(("mean error, candidates and exports", percent(sum(errors) / len(errors))))
        facts.append(("worst of these", percent(max(errors))))
        facts.append(("how many", str(len(errors))))
    rows = "".join(element("dt", escape(name)) + element("dd", escape(value)) for name, value in facts)
    return element("dl", rows, class_="facts")


def _training(contents: Contents) -> str:
    logs = {"Supernet, by distillation": contents.supernet_log, "Teacher, fine-tuning": contents.teacher_log}
    charts = {name: loss_chart(log, f"Training loss: {name}") for name, log in logs.items()}
    figures = "".join(element("figure", element("h3", escape(name)) + chart) for name, chart in charts.items() if chart)
    return _section("Training loss", element("div", figures, class_="side-by-side")) if figures else ""


def _times(contents: Contents) -> str:
    if not contents.seconds:
        return ""
    longest, total = max(contents.seconds.values()) or 1.0, sum(contents.seconds.values())
    rows = ""
    for step in sorted(contents.seconds, key=order_of_step):
        seconds = contents.seconds[step]
        bar = element("div", style=f"width:{100.0 * seconds / longest:.1f}%")
        cells = element("td", escape(step)) + element("td", duration(seconds), class_="number")
        rows += element("tr", cells + element("td", bar, class_="bar"))
    rows += element("tr", f"<td>in all</td><td class='number'>{duration(total)}</td><td></td>", class_="total")
    return _section("Time each step took", element("table", rows, class_="times"))


def _loading(contents: Contents) -> str:
    body = ""
    for name, folder in contents.folders.items():
        body += element("h3", escape(name)) + _code(
            "import nas  # makes transformers know the exported model class",
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
            f"model = AutoModelForSequenceClassification.from_pretrained({json.dumps(folder)})",
            f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(folder)})",
        )
        body += _code(
            "import onnxruntime",
            f"session = onnxruntime.InferenceSession({json.dumps(folder + '/model.onnx')})",
            'inputs = tokenizer("a text", return_tensors="np")',
            'logits = session.run(["logits"], dict(inputs))[0]',
        )
    return _section("How to load an export", body, "long") if body else ""


def _code(*lines: str) -> str:
    return element("pre", element("code", escape("\n".join(lines))))
