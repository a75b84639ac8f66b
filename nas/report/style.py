"""Colours, style sheets and the script of the report.

The HTML report follows the light or dark setting of the reader's system. SVG files are always light.
"""

from __future__ import annotations

import re
from importlib import resources

from markupsafe import Markup

LIGHT = {
    "ground": "#ffffff",
    "panel": "#f5f7fa",
    "ink": "#17202b",
    "muted": "#5a6675",
    "line": "#dde3ea",
    "dot": "#9eabbb",
    "accent": "#2456c7",
    "export": "#c81e5b",
    "budget": "#8a5a00",
    "met": "#12703a",
    "missed": "#b3261e",
    "dropped": "#e8ecf1",
    "choice-0": "#4a76c9",
    "choice-1": "#e08b1b",
    "choice-2": "#1f9e89",
    "choice-3": "#8e5bb8",
    "choice-4": "#b8a13a",
    "choice-5": "#c4527f",
    "choice-6": "#5d8a34",
    "choice-7": "#4aa7c9",
    "choice-8": "#8a6a4f",
}
DARK = {
    "ground": "#0f141b",
    "panel": "#18202a",
    "ink": "#e7ecf2",
    "muted": "#9aa8b8",
    "line": "#2a3542",
    "dot": "#66758a",
    "accent": "#7ba6ff",
    "export": "#ff6f9f",
    "budget": "#e2b04a",
    "met": "#53d28c",
    "missed": "#ff8a80",
    "dropped": "#222c38",
    "choice-0": "#6f98e8",
    "choice-1": "#f0a63f",
    "choice-2": "#45c4ae",
    "choice-3": "#b48be0",
    "choice-4": "#d6c060",
    "choice-5": "#e87fa8",
    "choice-6": "#8fbf62",
    "choice-7": "#7accea",
    "choice-8": "#b8977a",
}
NUM_METHOD_COLOURS = sum(name.startswith("choice-") for name in LIGHT)
"""The number of colours for compression methods, including the first colour, which is reserved for `none`."""


def _read_resource(name: str) -> str:
    return (resources.files("nas.report") / name).read_text(encoding="utf-8")


def _variables(palette: dict[str, str]) -> str:
    return ":root{" + "".join(f"--{name}:{colour};" for name, colour in palette.items()) + "}"


def page_style() -> Markup:
    """Return the style element of the HTML report, with light and dark colours. Printed pages are always light."""
    dark = f"@media screen and (prefers-color-scheme:dark){{{_variables(DARK)}}}"
    return Markup(
        f"<style>{_variables(LIGHT)}{dark}\n{_read_resource('page.css')}\n{_read_resource('chart.css')}</style>"
    )


def page_script() -> Markup:
    """Return the script element of the HTML report. The script shows tooltips."""
    return Markup(f"<script>{_read_resource('page.js')}</script>")


def standalone_style() -> str:
    """Return the style element of an SVG file. It has no CSS variables, because some viewers do not support them."""
    rules = re.sub(r"var\(--([a-z0-9-]+)\)", lambda match: LIGHT[match.group(1)], _read_resource("chart.css"))
    return f"<style>{rules}</style>"
