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

_WIDTH, _HIDDEN_SIZE_WIDTH, _GAP = 330.0, 54.0, 6.0
_BAR_HEIGHT, _ROW_GAP = 8.0, 2.0
_HEIGHT = 2 * _BAR_HEIGHT + _ROW_GAP


def front_table(contents: Contents, methods: Sequence[str]) -> dict[str, Any]:
    """Return the column titles, the heading of the drawings, and one row per network.

    The most accurate network comes first, and the fastest comes last. The order of `methods` determines the colour of
    each compression method, as in `methods_legend`.
    """
    devices = contents.searched_devices
    predicted = [f"predicted on {device}" if len(devices) > 1 else "predicted" for device in devices]
    return {
        "titles": [contents.metric, *predicted, "size"],
        "heading": _heading(contents.teacher),
        "rows": [_row(item, contents, methods) for item in (contents.front or {"front": []})["front"]],
    }


def _row(item: Record, contents: Contents, methods: Sequence[str]) -> dict[str, Any]:
    latencies = [milliseconds(item["predicted_ms"][device]) for device in contents.searched_devices]
    architecture = Architecture.from_json(item["architecture"])
    return {
        "numbers": [score(item["search_accuracy"]), *latencies, f"{significant(item['size_mb'])} MB"],
        "trial": item.get("trial", ""),
        "digest": item["digest"][:8],
        "drawing": _small_drawing(architecture, contents.teacher, methods),
    }


def _heading(teacher: Shape) -> Markup:
    """Draw the heading of the column of drawings. It labels the hidden size and each layer."""
    words = [text(0, 12, "hidden", "size")]
    words += [
        text(_left(number, teacher), 12, f"layer {number}" if number == 0 else str(number), "size")
        for number in range(teacher.num_hidden_layers)
    ]
    return drawing(_WIDTH, 14, "hidden size, then the teacher's layers", "chart heads", "".join(words))


def _small_drawing(architecture: Architecture, teacher: Shape, methods: Sequence[str]) -> Markup:
    """Draw one bar for the hidden size and two bars per layer of the teacher: heads above, intermediate size below."""
    share = architecture.hidden_size / teacher.hidden_size
    parts = [
        _bar(0.0, _BAR_HEIGHT / 2, _HIDDEN_SIZE_WIDTH - 2 * _GAP, share, method_class(architecture.embedding, methods))
    ]
    pairs = zip(architecture.layers, architecture.resolved, strict=True)
    layers = {layer.source: (layer, resolved) for layer, resolved in pairs}
    teacher_sizes = (teacher.num_attention_heads, teacher.intermediate_size)
    width = _pitch(teacher) - _GAP
    for number in range(teacher.num_hidden_layers):
        x = _left(number, teacher)
        if number not in layers:
            parts.append(element("rect", x=x, y=0.5, width=width, height=_HEIGHT - 1, rx=2, class_="gone"))
            continue
        layer, resolved = layers[number]
        for row, (block, teacher_size) in enumerate(zip(LAYER_BLOCKS, teacher_sizes, strict=True)):
            size = resolved.option(block)[0]
            class_ = method_class(layer.choice(block), methods) if size else ""
            parts.append(_bar(x, row * (_BAR_HEIGHT + _ROW_GAP), width, size / teacher_size, class_))
    return drawing(_WIDTH, _HEIGHT, "; ".join(in_words(architecture)), "chart", "".join(parts))


def _pitch(teacher: Shape) -> float:
    return (_WIDTH - _HIDDEN_SIZE_WIDTH + _GAP) / teacher.num_hidden_layers


def _left(number: int, teacher: Shape) -> float:
    return _HIDDEN_SIZE_WIDTH + _pitch(teacher) * number


def _bar(x: float, y: float, full: float, share: float, class_: str) -> str:
    track = element("rect", x=x, y=y, width=full, height=_BAR_HEIGHT, rx=2, class_="track")
    return track + (
        element("rect", x=x, y=y, width=full * share, height=_BAR_HEIGHT, rx=2, class_=class_) if share else ""
    )
