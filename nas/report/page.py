"""The report of a run as one self-contained HTML page: results, charts, tables and code, without external resources.

`render` turns `Contents` into the page; `nas.pipeline.reports` writes it to `report.html`. Each section is a function
that returns an empty string if the run has nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nas.errors import NasError
from nas.report.answer import against_uniform, cards, measured_how, table, warning
from nas.report.architecture_drawing import architecture_drawing, architectures_of, methods_legend, methods_of
from nas.report.bars import bars
from nas.report.compared_table import compared_table
from nas.report.contents import Contents, Record
from nas.report.front_chart import front_chart, legend
from nas.report.front_table import front_table
from nas.report.label_table import label_table
from nas.report.latency_chart import latency_chart, measured_networks
from nas.report.loss_chart import accuracy_chart, loss_chart
from nas.report.numbers import accuracies, duration, limits, percent, score
from nas.report.rank_chart import rank_chart
from nas.report.style import page_script, page_style
from nas.report.svg import element

_LEAST_SHARE = 0.005
"""Dimensions that explain a smaller share of the variation in accuracy are not listed."""


def render(contents: Contents) -> str:
    """Return the page as HTML. Raises `NasError` if the run has no results yet."""
    if contents.is_empty:
        raise NasError(f"{contents.study}: there is nothing to report yet; run `nas search` or `nas run` first")
    sections = (
        _answer, _labels, _compared, _seeds, _front, _architectures, _importance, _latency, _training, _ranking, _times,
        _loading,
    )  # fmt: skip
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
    heading = element("h1", escape(contents.study)) + element("p", escape(shape + budgets), class_="muted")
    return heading + _taught(contents) + (_note(f"{contents.outdated}.") if contents.outdated else "")


def _taught(contents: Contents) -> str:
    """Return a note on teacher and student; empty if the teacher itself is compressed."""
    about = contents.separate_teacher
    if not about:
        return ""
    tuned = ", fine-tuned here" if about["fine_tuned_here"] else ""
    return _note(
        f"The compressed model is the student {contents.student}. Its sub-networks were distilled from "
        f'{about["model"]}{tuned} ({accuracies(about)}). In tables and charts, "teacher" refers to the uncompressed '
        "student."
    )


def _answer(contents: Contents) -> str:
    if not contents.exports and not contents.baselines:
        return ""
    missing = [budget.name for budget in contents.budgets if budget.name not in contents.exports]
    note = "All values in this table were measured on the exported files after reloading them from disk"
    note += f" ({measured_how(contents)}). Each network was timed alternately with the teacher."
    body = warning(contents) + (cards(contents) if contents.exports else "") + table(contents) + _note(note)
    if missing:
        body += _note(f"No export yet for {', '.join(missing)}.")
        body += "".join(_note(f"{name}: {contents.missed[name]}.") for name in missing if name in contents.missed)
    return _section("Results", body + against_uniform(contents))


def _labels(contents: Contents) -> str:
    body = label_table(contents)
    note = (
        "F1 of each label on the test set, and the difference from the teacher. If labels apply from a threshold, each "
        "network has its own thresholds."
    )
    return _section("F1 per label", _note(note) + body, "long") if body else ""


def _compared(contents: Contents) -> str:
    body = compared_table(contents)
    note = (
        "Passages for one query of the test set, in the order of the teacher, with the rank and the output of each "
        "network."
    )
    return _section("Example query", _note(note) + body, "long") if body else ""


def _front(contents: Contents) -> str:
    if not contents.front or not contents.searched_devices:
        return ""
    evaluated, best = len(contents.front["candidates"]), len(contents.front["front"])
    raced = sum("stopped_after" in item for item in contents.front["candidates"])
    skipped = contents.front["outcomes"].get("over_budget", 0)
    note = (
        f"{evaluated} candidates were evaluated with the supernet's weights. The evaluation of {raced} of them was "
        f"stopped early, because they could no longer be the best at their cost. {best} candidates form the front. "
        f"{skipped} further proposals were not evaluated, because they were predicted to miss every budget. Candidates "
        "are drawn at their predicted latency, exports at their measured latency. The dashed line from a candidate to "
        "its export shows the prediction error and the effect of the final training on the search-set score. Triangles "
        "are candidates below the range of the vertical axis."
    )
    charts = "".join(element("figure", front_chart(contents, device)) for device in contents.searched_devices)
    choices = _choices(contents)
    listed = (
        "Bars show sizes as shares of the teacher's: first the hidden size, then for each layer the attention heads "
    )
    listed += "(above) and the intermediate size (below)."
    table = element("h3", "The networks on the front") + _note(listed) + methods_legend(choices)
    table += front_table(contents, choices)
    return _section("The Pareto front", _note(note) + charts + legend() + table, "long")


def _choices(contents: Contents) -> list[str]:
    """Return the compression methods of all architectures that the page shows; each method has one colour there."""
    front = contents.front["front"] if contents.front else ()
    return methods_of(architectures_of([*front, *contents.exports.values()]))


def _architectures(contents: Contents) -> str:
    if not contents.exports:
        return ""
    architectures = architectures_of(contents.exports.values())
    choices = _choices(contents)
    note = (
        "Bars show sizes as shares of the teacher's; their colour shows the compression method of the block. A number "
        "of tokens below the name of a layer is the number that this layer passes on."
    )
    figures = ""
    for name, architecture in zip(contents.exports, architectures, strict=True):
        label = f"Architecture exported as {name}"
        picture = architecture_drawing(architecture, contents.teacher, choices, label)
        caption = element("figcaption", element("code", escape(architecture.describe())))
        figures += element("figure", element("h3", escape(name)) + caption + picture)
    body = _note(note) + methods_legend(choices) + element("div", figures, class_="side-by-side")
    return _section("The exported architectures", body)


def _latency(contents: Contents) -> str:
    body = ""
    for device, profile in contents.profiles.items():
        chart = element("figure", latency_chart(contents, device))
        body += element("h3", escape(device)) + element(
            "div", chart + element("div", _error_facts(contents, device, profile)), class_="side-by-side"
        )
    note = (
        "Predictions only steer the search; budgets are checked against measured latency. Dots are random networks "
        "that were not used to fit the prediction. Rings are candidates and exports that were measured end to end. On "
        "the dashed line, prediction and measurement are equal."
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
        facts.append(("worst error, candidates and exports", percent(max(errors))))
        facts.append(("number of candidates and exports", str(len(errors))))
    return _facts(facts)


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(element("dt", escape(name)) + element("dd", escape(value)) for name, value in facts)
    return element("dl", rows, class_="facts")


def _importance(contents: Contents) -> str:
    found = (contents.front or {}).get("importance", {})
    if not any(found.values()):
        return ""
    note = (
        "Bars show the share of the variation in accuracy between the evaluated candidates that each dimension "
        "explains by itself (functional ANOVA). The search samples promising regions more densely, so the shares "
        "describe these regions."
    )
    rows = [(_dimension(name), share, percent(share)) for name, share in found.items() if share >= _LEAST_SHARE]
    return _section("What accuracy depends on", _note(note) + bars(rows))


def _dimension(name: str) -> str:
    """Return the name of a dimension in words: "attention, layer 3" (of the teacher) for `attention_3`."""
    kind, _, layer = name.rpartition("_")
    words = {"attention": "attention", "feed_forward": "feed-forward", "keep_tokens": "tokens kept"}
    if layer.isdigit() and kind in words:
        return f"{words[kind]}, layer {layer}"
    return "which layers are kept" if name == "layers" else name.replace("_", " ")


def _training(contents: Contents) -> str:
    logs = {"Supernet, by distillation": contents.supernet_log, "Teacher, fine-tuning": contents.teacher_log}
    logs |= {f"Export {name}, by distillation": log for name, log in contents.export_logs.items()}
    figures = ""
    for name, log in logs.items():
        charts = loss_chart(log, f"Training loss: {name}")
        charts += accuracy_chart(log, f"Accuracy during training: {name}", f"{contents.metric} on the search set")
        figures += element("figure", element("h3", escape(name)) + charts) if charts else ""
    note = _note(f"{contents.unlabelled}.") if contents.unlabelled else ""
    return _section("Training", note + element("div", figures, class_="side-by-side"), "long") if figures else ""


def _ranking(contents: Contents) -> str:
    found = contents.rank_correlation
    if not found:
        return ""
    note = (
        f"{found['architectures']} architectures from the smallest to the largest were also trained individually for "
        f"{found['steps']} steps from their inherited weights. The correlation shows whether the supernet ranks them "
        "correctly."
    )
    facts = [
        ("Kendall tau", f"{found['kendall_tau']:.2f}"),
        ("95 % interval", f"{found['low']:.2f} to {found['high']:.2f}"),
        ("Kendall tau of the number of parameters", f"{found['kendall_tau_params']:.2f}"),
    ]
    chart = element("figure", rank_chart(found["rows"]))
    body = element("div", chart + element("div", _facts(facts)), class_="side-by-side")
    return _section("Rank correlation", _note(note) + body)


def _seeds(contents: Contents) -> str:
    if not contents.seeds:
        return ""
    some = next(iter(contents.seeds.values()))
    note = (
        f"The whole study was run with {len(some['seeds'])} seeds, which change how rows are split, training and "
        f"search. {some['metric'].capitalize()} on the test set: the mean and its standard error, then each seed."
    )
    facts = []
    for name, found in contents.seeds.items():
        mean = score(found["mean"], found["standard_error"])
        facts.append((name, f"{mean} ({', '.join(score(value) for value in found['accuracies'])})"))
    return _section("Several seeds", _note(note) + _facts(facts))


def _times(contents: Contents) -> str:
    if not contents.seconds:
        return ""
    total = duration(sum(contents.seconds.values()))
    rows = ((step, seconds, duration(seconds)) for step, seconds in contents.seconds.items())
    return _section("Time each step took", bars(rows, ("total", total)))


def _loading(contents: Contents) -> str:
    body = ""
    for name, found in contents.snippets.items():
        body += element("h3", escape(name))
        for title, _, code in found:
            body += element("p", escape(title.replace("`", ""))) + element("pre", element("code", escape(code)))
    return _section("How to load an export", body, "long") if body else ""
