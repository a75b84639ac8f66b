"""The table of the networks on the Pareto front: score, latencies, size and a small drawing of the architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.report.architecture_drawing import in_words, method_class
from nas.report.contents import Contents, Record
from nas.report.numbers import milliseconds, score, significant
from nas.report.svg import drawing, element, text
from nas.space import Shape

_WIDTH, _ENDS, _GAP = 330.0, 54.0, 6.0
_BAR, _BETWEEN = 8.0, 2.0
_HEIGHT = 2 * _BAR + _BETWEEN


def front_table(contents: Contents, choices: Sequence[str]) -> dict[str, Any]:
    """Return column titles, the heading of the drawings, and rows from the most accurate network to the fastest.

    `choices` determines the colours of the compression methods, as in `methods_legend`.
    """
    devices = contents.searched_devices
    predicted = [f"predicted on {device}" if len(devices) > 1 else "predicted" for device in devices]
    return {
        "titles": [contents.metric, *predicted, "size"],
        "heading": _numbers(contents.teacher),
        "rows": [_row(item, contents, choices) for item in (contents.front or {"front": []})["front"]],
    }


def _row(item: Record, contents: Contents, choices: Sequence[str]) -> dict[str, Any]:
    latencies = [milliseconds(item["predicted_ms"][device]) for device in contents.searched_devices]
    architecture = Architecture.from_json(item["architecture"])
    return {
        "numbers": [score(item["search_accuracy"]), *latencies, f"{significant(item['size_mb'])} MB"],
        "trial": item.get("trial", ""),
        "digest": item["digest"][:8],
        "drawing": _strip(architecture, contents.teacher, choices),
    }


def _numbers(teacher: Shape) -> Markup:
    """Draw the heading for the column of drawings, which names the parts of a drawing."""
    words = [text(0, 12, "hidden", "size")]
    words += [
        text(_left(number, teacher), 12, f"layer {number}" if number == 0 else str(number), "size")
        for number in range(teacher.num_hidden_layers)
    ]
    return drawing(_WIDTH, 14, "hidden size, then the teacher's layers", "chart heads", "".join(words))


def _strip(architecture: Architecture, teacher: Shape, choices: Sequence[str]) -> Markup:
    """Draw a bar for the hidden size, then two bars per layer of the teacher: heads above, intermediate size below."""
    share = architecture.hidden_size / teacher.hidden_size
    parts = [_bar(0.0, _BAR / 2, _ENDS - 2 * _GAP, share, method_class(architecture.embedding, choices))]
    pairs = zip(architecture.layers, architecture.resolved, strict=True)
    layers = {layer.source: (layer, resolved) for layer, resolved in pairs}
    full = (teacher.num_attention_heads, teacher.intermediate_size)
    width = _pitch(teacher) - _GAP
    for number in range(teacher.num_hidden_layers):
        x = _left(number, teacher)
        if number not in layers:
            parts.append(element("rect", x=x, y=0.5, width=width, height=_HEIGHT - 1, rx=2, class_="gone"))
            continue
        layer, resolved = layers[number]
        for row, (block, whole) in enumerate(zip(LAYER_BLOCKS, full, strict=True)):
            size = resolved.option(block)[0]
            class_ = method_class(layer.choice(block), choices) if size else ""
            parts.append(_bar(x, row * (_BAR + _BETWEEN), width, size / whole, class_))
    return drawing(_WIDTH, _HEIGHT, "; ".join(in_words(architecture)), "chart", "".join(parts))


def _pitch(teacher: Shape) -> float:
    return (_WIDTH - _ENDS + _GAP) / teacher.num_hidden_layers


def _left(number: int, teacher: Shape) -> float:
    return _ENDS + _pitch(teacher) * number


def _bar(x: float, y: float, full: float, share: float, class_: str) -> str:
    track = element("rect", x=x, y=y, width=full, height=_BAR, rx=2, class_="track")
    return track + (element("rect", x=x, y=y, width=full * share, height=_BAR, rx=2, class_=class_) if share else "")
