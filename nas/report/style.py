"""Colours, style sheets and the script of the report.

The HTML report follows the light or dark setting of the reader's system. SVG files are always light.
"""

from __future__ import annotations

import re
from importlib import resources

from markupsafe import Markup

_COLOURS = {
    "ground": ("#ffffff", "#0f141b"),
    "panel": ("#f5f7fa", "#18202a"),
    "ink": ("#17202b", "#e7ecf2"),
    "muted": ("#5a6675", "#9aa8b8"),
    "line": ("#dde3ea", "#2a3542"),
    "dot": ("#9eabbb", "#66758a"),
    "accent": ("#2456c7", "#7ba6ff"),
    "export": ("#c81e5b", "#ff6f9f"),
    "budget": ("#8a5a00", "#e2b04a"),
    "met": ("#12703a", "#53d28c"),
    "missed": ("#b3261e", "#ff8a80"),
    "dropped": ("#e8ecf1", "#222c38"),
    "choice-0": ("#4a76c9", "#6f98e8"),
    "choice-1": ("#e08b1b", "#f0a63f"),
    "choice-2": ("#1f9e89", "#45c4ae"),
    "choice-3": ("#8e5bb8", "#b48be0"),
    "choice-4": ("#b8a13a", "#d6c060"),
    "choice-5": ("#c4527f", "#e87fa8"),
    "choice-6": ("#5d8a34", "#8fbf62"),
    "choice-7": ("#4aa7c9", "#7accea"),
    "choice-8": ("#8a6a4f", "#b8977a"),
}
"""The light and the dark version of each colour, keyed by the name of its CSS variable."""
_LIGHT, _DARK = 0, 1
NUM_METHOD_COLOURS = sum(name.startswith("choice-") for name in _COLOURS)
"""The number of colours for compression methods, including the first colour, which is reserved for `none`."""


def _read_resource(name: str) -> str:
    return (resources.files("nas.report") / name).read_text(encoding="utf-8")


def _variables(version: int) -> str:
    """Return the CSS variables of all colours. `version` is `_LIGHT` or `_DARK`."""
    return ":root{" + "".join(f"--{name}:{colours[version]};" for name, colours in _COLOURS.items()) + "}"


def page_style() -> Markup:
    """Return the style element of the HTML report, with light and dark colours. Printed pages are always light."""
    dark = f"@media screen and (prefers-color-scheme:dark){{{_variables(_DARK)}}}"
    return Markup(
        f"<style>{_variables(_LIGHT)}{dark}\n{_read_resource('page.css')}\n{_read_resource('chart.css')}</style>"
    )


def page_script() -> Markup:
    """Return the script element of the HTML report. The script shows tooltips."""
    return Markup(f"<script>{_read_resource('page.js')}</script>")


def standalone_style() -> str:
    """Return the style element of an SVG file. It has no CSS variables, because some viewers do not support them."""
    rules = re.sub(r"var\(--([a-z0-9-]+)\)", lambda match: _COLOURS[match[1]][_LIGHT], _read_resource("chart.css"))
    return f"<style>{rules}</style>"
