"""Drawings of architectures: each layer's sizes as bars within the teacher's sizes, coloured by compression method.

`architecture_drawing` returns a drawing for the report, `architectures_picture` returns a separate SVG file, and
`in_words` returns the same facts as text for tooltips.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from nas.architecture import Architecture, Layer
from nas.compression import compression
from nas.report.contents import Record
from nas.report.style import METHOD_COLOURS, standalone_style
from nas.report.svg import drawing, element, legend_mark, text, tooltip
from nas.space import Shape

_WIDTH = 400.0
_LEFT, _BAR, _GAP = 76.0, 152.0, 20.0
_TOP, _ROW, _THICK = 22.0, 42.0, 15.0
_RIGHT_BAR = _LEFT + _BAR + _GAP
_MARGIN, _TITLE = 14.0, 22.0
"""Margin and height of the title in a separate SVG file."""
_MOST_CELLS = 24
"""Up to this number, attention heads are drawn one by one; more heads are drawn as a single bar."""


def methods_of(architectures: Iterable[Architecture]) -> list[str]:
    """Return the compression methods of all blocks that are not skipped, in the order of their colours."""
    every = {choice for architecture in architectures for choice in architecture.choices}
    found = {choice for choice in every if compression(choice).weights != "none"}
    return sorted(found, key=lambda choice: (choice != "none", choice))


def architectures_of(exports: Iterable[Record]) -> list[Architecture]:
    """Return the architectures of exports, given their verification records or similar JSON records."""
    return [Architecture.from_json(found["architecture"]) for found in exports]


def methods_legend(choices: Sequence[str]) -> list[tuple[Markup, str]]:
    """Return the marks and their meanings for the legend that explains the colours."""
    marks = [
        (f'<rect y="3" width="16" height="10" rx="2" class="{method_class(name, choices)}"/>', _choice_in_words(name))
        for name in choices
    ]
    marks.append(('<rect y="3" width="16" height="10" rx="2" class="track"/>', "removed part of the teacher"))
    marks.append(('<rect x="0.5" y="3.5" width="15" height="9" rx="2" class="gone"/>', "dropped or skipped"))
    return [(legend_mark(mark), name) for mark, name in marks]


def in_words(architecture: Architecture) -> list[str]:
    """Return a description of an architecture in lines of text: first the embeddings, then each layer."""

    def marked(size: str, choice: str) -> str:
        return size if choice == "none" else f"{size} {choice}"

    early = f", early exit at confidence {architecture.exit_threshold:g}" if architecture.exit_threshold else ""
    lines = [marked(f"hidden size {architecture.hidden_size}", architecture.embedding) + early]
    for layer, resolved in zip(architecture.layers, architecture.resolved, strict=True):
        heads, size = resolved.num_attention_heads, resolved.intermediate_size
        attention = marked(f"{heads} head{'s' * (heads != 1)}", layer.attention) if heads else "no attention"
        feed_forward = marked(f"{size:,}", layer.feed_forward) if size else "no feed-forward"
        kept = f", {layer.keep_tokens} tokens kept" if layer.keep_tokens else ""
        lines.append(f"layer {layer.source}: {attention}, {feed_forward}{kept}")
    return lines


def architecture_drawing(architecture: Architecture, teacher: Shape, choices: Sequence[str], label: str) -> Markup:
    """Return a drawing as an SVG element: one row for the embeddings, then one per layer of the teacher.

    Bars show sizes as shares of the teacher's sizes. `choices` determines the colours of the compression methods, as in
    `methods_legend`; `label` is for screen readers.
    """
    return drawing(_WIDTH, _height(teacher), label, "chart", _rows(architecture, teacher, choices))


def architectures_picture(named: Mapping[str, Architecture], teacher: Shape, label: str) -> str:
    """Return the text of an SVG file that shows several architectures side by side, each one below its name."""
    choices, pitch = methods_of(named.values()), _WIDTH + 2 * _MARGIN
    width, height = pitch * len(named), _height(teacher) + _TITLE + 2 * _MARGIN
    parts = [element("rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=10, class_="ground")]
    for number, (name, architecture) in enumerate(named.items()):
        rows = element("g", _rows(architecture, teacher, choices), transform=f"translate(0 {_TITLE:g})")
        place = f"translate({_MARGIN + pitch * number:g} {_MARGIN:g})"
        parts.append(element("g", text(0, 14, name, "teacher-name") + rows, class_="chart", transform=place))
    return drawing(width, height, label, "picture", standalone_style() + "".join(parts)) + "\n"


def _height(teacher: Shape) -> float:
    return _TOP + _ROW * (1 + teacher.num_hidden_layers) + 20


def _rows(architecture: Architecture, teacher: Shape, choices: Sequence[str]) -> str:
    pairs = zip(architecture.layers, architecture.resolved, strict=True)
    layers = {layer.source: (layer, resolved) for layer, resolved in pairs}
    parts = [_embedding(architecture, teacher, choices)]
    head_y = _TOP + _ROW + 8
    parts.append(text(_LEFT, head_y, "attention heads", "label"))
    parts.append(text(_RIGHT_BAR, head_y, "intermediate size", "label"))
    for number in range(teacher.num_hidden_layers):
        y = head_y + 12 + _ROW * number
        parts.append(text(0, y + 12, f"layer {number}", "label"))
        if number in layers:
            parts.append(_layer(*layers[number], teacher, choices, y))
        else:
            parts.append(_gone(_LEFT, y, 2 * _BAR + _GAP, "dropped"))
    return "".join(parts)


def _embedding(architecture: Architecture, teacher: Shape, choices: Sequence[str]) -> str:
    width, full = architecture.hidden_size, teacher.hidden_size
    words = f"hidden size {width} of {full}"
    early = architecture.exit_threshold
    bar = _bar(_LEFT, 4, 2 * _BAR + _GAP, width / full, architecture.embedding, choices, f"Embedding: {words}")
    leaving = text(0, 4 + _THICK + 13.5, f"exit at {early:g}", "size") if early else ""
    return text(0, 16, "embedding", "label") + bar + _below(_LEFT, 4, words, architecture.embedding) + leaving


def _layer(layer: Layer, resolved: Layer, teacher: Shape, choices: Sequence[str], y: float) -> str:
    """Draw one layer. `resolved` also includes the sizes of blocks that share the weights of a lower layer."""
    heads, full_heads = resolved.num_attention_heads, teacher.num_attention_heads
    size, full_size = resolved.intermediate_size, teacher.intermediate_size
    about, words = f"Layer {layer.source}", (f"{heads} of {full_heads}", f"{size:,} of {full_size:,}")
    parts = []
    if not heads:
        parts.append(_gone(_LEFT, y, _BAR, "skipped"))
    elif full_heads > _MOST_CELLS:
        label = f"{about}: attention heads {words[0]}"
        parts.append(_bar(_LEFT, y, _BAR, heads / full_heads, layer.attention, choices, label))
    else:
        parts.append(_heads(heads, full_heads, layer.attention, choices, y, f"{about}: attention heads {words[0]}"))
    if size:
        label = f"{about}: intermediate size {words[1]}"
        parts.append(_bar(_RIGHT_BAR, y, _BAR, size / full_size, layer.feed_forward, choices, label))
    else:
        parts.append(_gone(_RIGHT_BAR, y, _BAR, "skipped"))
    if heads:
        parts.append(_below(_LEFT, y, words[0], layer.attention))
    if size:
        parts.append(_below(_RIGHT_BAR, y, words[1], layer.feed_forward))
    if layer.keep_tokens:
        parts.append(text(0, y + _THICK + 13.5, f"{layer.keep_tokens} tokens", "size"))
    return "".join(parts)


def _heads(kept: int, full: int, choice: str, choices: Sequence[str], y: float, about: str) -> str:
    """Draw one cell per attention head of the teacher; the first `kept` are coloured."""
    pitch = _BAR / full
    cells = "".join(
        element(
            "rect",
            x=_LEFT + pitch * number,
            y=y,
            width=pitch - 2,
            height=_THICK,
            rx=2,
            class_=method_class(choice, choices) if number < kept else "track",
        )
        for number in range(full)
    )
    return element("g", tooltip(f"{about}, {_choice_in_words(choice)}") + cells)


def _bar(x: float, y: float, full: float, share: float, choice: str, choices: Sequence[str], about: str) -> str:
    track = element("rect", x=x, y=y, width=full, height=_THICK, rx=3, class_="track")
    kept = element("rect", x=x, y=y, width=full * share, height=_THICK, rx=3, class_=method_class(choice, choices))
    return element("g", tooltip(f"{about}, {_choice_in_words(choice)}") + track + kept)


def _below(x: float, y: float, words: str, choice: str) -> str:
    return text(x, y + _THICK + 13.5, words if choice == "none" else f"{words} · {choice}", "size")


def _gone(x: float, y: float, width: float, word: str) -> str:
    outline = element("rect", x=x, y=y, width=width, height=_THICK, rx=3, class_="gone")
    return outline + text(x + width / 2, y + 11.5, word, "gone-name", "middle")


def method_class(choice: str, choices: Sequence[str]) -> str:
    """Return the CSS class that colours a compression method; the first colour is reserved for `none`.

    The other colours repeat if there are more methods than colours.
    """
    if choice == "none":
        return "choice-0"
    compressed = [name for name in choices if name != "none"]
    return f"choice-{1 + compressed.index(choice) % (METHOD_COLOURS - 1)}"


def _choice_in_words(choice: str) -> str:
    if compression(choice).weights == "below":
        return "shares the weights of a lower layer"
    return "not compressed" if choice == "none" else choice
