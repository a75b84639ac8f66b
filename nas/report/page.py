"""The report of a run: one HTML page with results, charts, tables and code, without external resources.

`render` converts `Contents` to HTML, and `nas.pipeline.reports` writes the HTML to `report.html`. The markup and the
text are in `templates/page.html`, which leaves out a section if the run has no values for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from nas.errors import NasError
from nas.report.architecture_drawing import architecture_drawing, architectures_of, methods_legend, methods_of
from nas.report.contents import Contents
from nas.report.front_chart import front_chart, legend
from nas.report.front_table import front_table
from nas.report.latency_chart import latency_chart, measured_networks
from nas.report.networks_tables import compared_table, label_table
from nas.report.rank_chart import rank_chart
from nas.report.rendering import fill
from nas.report.results import results
from nas.report.style import page_script, page_style
from nas.report.training_chart import training_chart

_LEAST_SHARE = 0.005
"""A dimension is listed only if it explains at least this fraction of the variance of the search's objective."""


def render(contents: Contents) -> str:
    """Return the report of a run as HTML. Raises `NasError` if the run has no results yet."""
    if contents.is_empty:
        raise NasError(f"{contents.study}: there is nothing to report yet; run `nas search` or `nas run` first")
    on_front = contents.front["front"] if contents.front else ()
    methods = methods_of(architectures_of([*on_front, *contents.exports.values()]))  # the same colours everywhere
    ranking = contents.rank_correlation
    return fill(
        "nas.report",
        "page.html",
        contents=contents,
        style=page_style(),
        script=page_script(),
        methods_legend=methods_legend(methods),
        results=results(contents),
        labels=label_table(contents),
        compared=compared_table(contents),
        front_charts=[front_chart(contents, device) for device in contents.searched_devices],
        front_legend=legend(),
        front_table=front_table(contents, methods),
        architectures=list(_architectures(contents, methods)),
        importance=_importance(contents),
        latencies=list(_latencies(contents)),
        trainings=list(_trainings(contents)),
        rank_chart=rank_chart(ranking["rows"]) if ranking else "",
    )


def _architectures(contents: Contents, methods: list[str]) -> Iterator[tuple[str, str, Markup]]:
    """Yield the name, description and drawing of each export."""
    for name, architecture in zip(contents.exports, architectures_of(contents.exports.values()), strict=True):
        label = f"Architecture exported as {name}"
        yield name, architecture.describe(), architecture_drawing(architecture, contents.teacher, methods, label)


def _importance(contents: Contents) -> dict[str, float]:
    importance = (contents.front or {}).get("importance", {})
    return {_dimension(name): share for name, share in importance.items() if share >= _LEAST_SHARE}


def _dimension(name: str) -> str:
    """Return a readable name for a dimension of the search space, such as "attention, layer 3"."""
    kind, _, layer = name.rpartition("_")
    words = {"attention": "attention", "feed_forward": "feed-forward", "keep_tokens": "tokens kept"}
    if layer.isdigit() and kind in words:
        return f"{words[kind]}, layer {layer}"
    return "which layers are kept" if name == "layers" else name.replace("_", " ")


def _latencies(contents: Contents) -> Iterator[tuple[str, Markup, list[float]]]:
    """Yield a triple for each profiled device: name, chart, and prediction errors of the networks measured on it."""
    for device in contents.profiles:
        networks = measured_networks(contents, device)
        errors = [abs(predicted - measured) / measured for _, predicted, measured in networks]
        yield device, latency_chart(contents, device), errors


def _trainings(contents: Contents) -> Iterator[tuple[str, list[Markup]]]:
    """Yield the name and the charts of each training stage that has charts."""
    logs = {"Supernet, by distillation": contents.supernet_log, "Teacher, fine-tuning": contents.teacher_log}
    logs |= {f"Export {name}, by distillation": log for name, log in contents.export_logs.items()}
    metric = f"{contents.metric} on the search set"
    for name, log in logs.items():
        loss = training_chart(log, "loss", f"Training loss: {name}", "loss")
        accuracy = training_chart(log, "eval_accuracy", f"Accuracy during training: {name}", metric)
        if loss or accuracy:
            yield name, [loss, accuracy]
