"""The table of the networks on the Pareto front: score, latencies, size and a small drawing of the architecture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.report.architecture_drawing import in_words, method_class
from nas.report.contents import Contents, Record
from nas.report.numbers import milliseconds, score, significant
from nas.report.svg import drawing, element, text
from nas.space import Shape

_WIDTH, _ENDS, _GAP = 330.0, 54.0, 6.0
_BAR, _BETWEEN = 8.0, 2.0
_HEIGHT = 2 * _BAR + _BETWEEN


def front_table(contents: Contents, choices: Sequence[str]) -> str:
    """Return the table as HTML, from the most accurate network to the fastest; without a front it has no rows.

    `choices` fixes the colours of the compression methods, as in `methods_legend`.
    """
    front, devices = contents.front or {"front": []}, contents.searched_devices
    names = [contents.metric, *(f"predicted on {device}" if len(devices) > 1 else "predicted" for device in devices)]
    head = "".join(element("th", escape(name), scope="col", class_="number") for name in [*names, "size"])
    head += element("th", "trial", class_="trial", scope="col") + element(
        "th", _numbers(contents.teacher), class_="strip", scope="col"
    )
    rows = "".join(element("tr", _cells(item, contents, choices)) for item in front["front"])
    return element("table", element("thead", element("tr", head)) + element("tbody", rows), class_="front")


def _cells(item: Record, contents: Contents, choices: Sequence[str]) -> str:
    figures = [score(item["search_accuracy"])]
    figures += [milliseconds(item["predicted_ms"][device]) for device in contents.searched_devices]
    figures.append(f"{significant(item['size_mb'])} MB")
    architecture = Architecture.from_json(item["architecture"])
    strip = _strip(architecture, contents.teacher, choices)
    cells = "".join(element("td", value, class_="number") for value in figures)
    name = f"{item['trial']} " if "trial" in item else ""
    cells += element("td", escape(name) + element("small", element("code", item["digest"][:8])), class_="trial")
    return cells + element("td", strip, class_="strip")


def _numbers(teacher: Shape) -> str:
    """Draw the heading of the drawings' column, which names the parts of a drawing."""
    words = [text(0, 12, "hidden", "size")]
    words += [
        text(_left(number, teacher), 12, f"layer {number}" if number == 0 else str(number), "size")
        for number in range(teacher.num_hidden_layers)
    ]
    return drawing(_WIDTH, 14, "hidden size, then the teacher's layers", "chart heads", "".join(words))


def _strip(architecture: Architecture, teacher: Shape, choices: Sequence[str]) -> str:
    """Draw a bar for the hidden size, then for each layer of the teacher the heads above the intermediate size."""
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
