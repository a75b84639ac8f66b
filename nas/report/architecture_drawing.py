"""Drawings of architectures. Bars show sizes relative to the teacher's sizes, and colours show compression methods.

`architecture_drawing` returns a drawing for the report. `architectures_picture` returns an SVG file with several
drawings. `in_words` describes an architecture in words, for tooltips.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from nas.architecture import Architecture, Layer
from nas.compression import compression
from nas.errors import counted
from nas.report.contents import Record
from nas.report.style import NUM_METHOD_COLOURS
from nas.report.svg import drawing, element, legend_mark, picture, text, tooltip
from nas.space import Shape

_WIDTH = 400.0
_LEFT, _BAR_WIDTH, _GAP = 76.0, 152.0, 20.0
_TOP, _ROW_HEIGHT, _BAR_HEIGHT = 22.0, 42.0, 15.0
_RIGHT_BAR = _LEFT + _BAR_WIDTH + _GAP
_MARGIN, _TITLE_HEIGHT = 14.0, 22.0
"""In an SVG file, the margin around each drawing, and the height of its title."""
_MOST_CELLS = 24
"""If the teacher has at most this many heads per layer, each head is drawn as a cell. Otherwise, one bar shows all
heads.
"""


def methods_of(architectures: Iterable[Architecture]) -> list[str]:
    """Return the compression methods that the architectures use: first `none`, then the others in alphabetical order.

    Methods that leave out a block, such as `skip`, are not included.
    """
    all_methods = {method for architecture in architectures for method in architecture.choices}
    used_methods = {method for method in all_methods if compression(method).weights != "none"}
    return sorted(used_methods, key=lambda method: (method != "none", method))


def architectures_of(exports: Iterable[Record]) -> list[Architecture]:
    """Return the architectures in `exports`, a collection of verification records or entries of `front.json`."""
    return [Architecture.from_json(export["architecture"]) for export in exports]


def methods_legend(methods: Sequence[str]) -> list[tuple[Markup, str]]:
    """Return the legend that explains the colours, as pairs (SVG symbol, description)."""
    marks = [
        (f'<rect y="3" width="16" height="10" rx="2" class="{method_class(name, methods)}"/>', _method_in_words(name))
        for name in methods
    ]
    marks.append(('<rect y="3" width="16" height="10" rx="2" class="track"/>', "removed part of the teacher"))
    marks.append(
        ('<rect x="0.5" y="3.5" width="15" height="9" rx="2" class="gone"/>', "dropped layer or skipped block")
    )
    return [(legend_mark(mark), name) for mark, name in marks]


def in_words(architecture: Architecture) -> list[str]:
    """Describe an architecture in words. Return one line for the embeddings and then one line for each layer."""

    def marked(size: str, method: str) -> str:
        return size if method == "none" else f"{size} {method}"

    early = f", early exit at confidence {architecture.exit_threshold:g}" if architecture.exit_threshold else ""
    lines = [marked(f"hidden size {architecture.hidden_size}", architecture.embedding) + early]
    for layer, resolved in zip(architecture.layers, architecture.resolved, strict=True):
        heads, size = resolved.num_attention_heads, resolved.intermediate_size
        attention = marked(counted(heads, "head"), layer.attention) if heads else "no attention"
        feed_forward = marked(f"feed-forward {size:,}", layer.feed_forward) if size else "no feed-forward"
        kept = f", {layer.keep_tokens} tokens kept" if layer.keep_tokens else ""
        lines.append(f"layer {layer.source}: {attention}, {feed_forward}{kept}")
    return lines


def architecture_drawing(architecture: Architecture, teacher: Shape, methods: Sequence[str], label: str) -> Markup:
    """Return an SVG element with one row for the embeddings and one row for each layer of the teacher.

    Bars show sizes relative to the teacher's sizes. The order of `methods` determines the colour of each compression
    method, as in `methods_legend`. `label` is a description for screen readers.
    """
    return drawing(_WIDTH, _height(teacher), label, "chart", _rows(architecture, teacher, methods))


def architectures_picture(named: Mapping[str, Architecture], teacher: Shape, label: str) -> str:
    """Return the content of an SVG file that shows several architectures side by side, each below its name.

    `named` contains the architectures, keyed by name. `label` is a description for screen readers.
    """
    methods, pitch = methods_of(named.values()), _WIDTH + 2 * _MARGIN
    width, height = pitch * len(named), _height(teacher) + _TITLE_HEIGHT + 2 * _MARGIN
    parts = []
    for number, (name, architecture) in enumerate(named.items()):
        rows = element("g", _rows(architecture, teacher, methods), transform=f"translate(0 {_TITLE_HEIGHT:g})")
        position = f"translate({_MARGIN + pitch * number:g} {_MARGIN:g})"
        parts.append(element("g", text(0, 14, name, "teacher-name") + rows, class_="chart", transform=position))
    return picture(width, height, label, "".join(parts))


def _height(teacher: Shape) -> float:
    return _TOP + _ROW_HEIGHT * (1 + teacher.num_hidden_layers) + 20


def _rows(architecture: Architecture, teacher: Shape, methods: Sequence[str]) -> str:
    pairs = zip(architecture.layers, architecture.resolved, strict=True)
    layers = {layer.source: (layer, resolved) for layer, resolved in pairs}
    parts = [_embedding(architecture, teacher, methods)]
    head_y = _TOP + _ROW_HEIGHT + 8
    parts.append(text(_LEFT, head_y, "attention heads", "label"))
    parts.append(text(_RIGHT_BAR, head_y, "intermediate size", "label"))
    for number in range(teacher.num_hidden_layers):
        y = head_y + 12 + _ROW_HEIGHT * number
        parts.append(text(0, y + 12, f"layer {number}", "label"))
        if number in layers:
            parts.append(_layer(*layers[number], teacher, methods, y))
        else:
            parts.append(_outline(_LEFT, y, 2 * _BAR_WIDTH + _GAP, "dropped"))
    return "".join(parts)


def _embedding(architecture: Architecture, teacher: Shape, methods: Sequence[str]) -> str:
    width, full = architecture.hidden_size, teacher.hidden_size
    words = f"hidden size {width} of {full}"
    threshold = architecture.exit_threshold
    bar = _bar(_LEFT, 4, 2 * _BAR_WIDTH + _GAP, width / full, architecture.embedding, methods, f"Embedding: {words}")
    exit_label = text(0, 4 + _BAR_HEIGHT + 13.5, f"exit at {threshold:g}", "size") if threshold else ""
    return text(0, 16, "embedding", "label") + bar + _label_below(_LEFT, 4, words, architecture.embedding) + exit_label


def _layer(layer: Layer, resolved: Layer, teacher: Shape, methods: Sequence[str], y: float) -> str:
    """Draw one layer. `resolved` is the same layer with the real sizes of blocks that share a lower layer's weights."""
    heads, full_heads = resolved.num_attention_heads, teacher.num_attention_heads
    size, full_size = resolved.intermediate_size, teacher.intermediate_size
    layer_name, sizes_in_words = f"Layer {layer.source}", (f"{heads} of {full_heads}", f"{size:,} of {full_size:,}")
    parts, label = [], f"{layer_name}: attention heads {sizes_in_words[0]}"
    if not heads:
        parts.append(_outline(_LEFT, y, _BAR_WIDTH, "skipped"))
    elif full_heads > _MOST_CELLS:
        parts.append(_bar(_LEFT, y, _BAR_WIDTH, heads / full_heads, layer.attention, methods, label))
    else:
        parts.append(_heads(heads, full_heads, layer.attention, methods, y, label))
    if size:
        label = f"{layer_name}: intermediate size {sizes_in_words[1]}"
        parts.append(_bar(_RIGHT_BAR, y, _BAR_WIDTH, size / full_size, layer.feed_forward, methods, label))
    else:
        parts.append(_outline(_RIGHT_BAR, y, _BAR_WIDTH, "skipped"))
    if heads:
        parts.append(_label_below(_LEFT, y, sizes_in_words[0], layer.attention))
    if size:
        parts.append(_label_below(_RIGHT_BAR, y, sizes_in_words[1], layer.feed_forward))
    if layer.keep_tokens:
        parts.append(text(0, y + _BAR_HEIGHT + 13.5, f"{layer.keep_tokens} tokens", "size"))
    return "".join(parts)


def _heads(kept: int, full: int, method: str, methods: Sequence[str], y: float, description: str) -> str:
    """Draw one cell for each attention head of the teacher, and colour the first `kept` cells."""
    pitch = _BAR_WIDTH / full
    cells = "".join(
        element(
            "rect",
            x=_LEFT + pitch * number,
            y=y,
            width=pitch - 2,
            height=_BAR_HEIGHT,
            rx=2,
            class_=method_class(method, methods) if number < kept else "track",
        )
        for number in range(full)
    )
    return element("g", tooltip(f"{description}, {_method_in_words(method)}") + cells)


def _bar(x: float, y: float, full: float, share: float, method: str, methods: Sequence[str], description: str) -> str:
    track = element("rect", x=x, y=y, width=full, height=_BAR_HEIGHT, rx=3, class_="track")
    kept = element("rect", x=x, y=y, width=full * share, height=_BAR_HEIGHT, rx=3, class_=method_class(method, methods))
    return element("g", tooltip(f"{description}, {_method_in_words(method)}") + track + kept)


def _label_below(x: float, y: float, words: str, method: str) -> str:
    return text(x, y + _BAR_HEIGHT + 13.5, words if method == "none" else f"{words} · {method}", "size")


def _outline(x: float, y: float, width: float, word: str) -> str:
    outline = element("rect", x=x, y=y, width=width, height=_BAR_HEIGHT, rx=3, class_="gone")
    return outline + text(x + width / 2, y + 11.5, word, "gone-name", "middle")


def method_class(method: str, methods: Sequence[str]) -> str:
    """Return the name of the CSS class that colours a compression method.

    The first colour is reserved for `none`. If there are more methods than colours, the other colours repeat.
    """
    if method == "none":
        return "choice-0"
    compressed = [name for name in methods if name != "none"]
    return f"choice-{1 + compressed.index(method) % (NUM_METHOD_COLOURS - 1)}"


def _method_in_words(method: str) -> str:
    if compression(method).weights == "below":
        return "shares the weights of a lower layer"
    return "not compressed" if method == "none" else method
