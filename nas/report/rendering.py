"""Rendering of the HTML report, of the model card and of proposed TOML files from jinja2 templates.

Each package keeps its templates in its folder `templates`. They contain the markup and the text, and other modules
prepare the values. In HTML templates, all values are escaped except those of type `Markup`, such as charts. Every
function of `nas.report.numbers` is available as a filter, as is `toml`, which turns a value into a TOML literal. If a
template uses a name without a value, rendering raises an error.
"""

from __future__ import annotations

from functools import cache
from inspect import getmembers, isfunction

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from nas.files import toml_literal
from nas.report import numbers


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"thousands": "{:,}".format, "toml": toml_literal, **dict(getmembers(numbers, isfunction))}
    return environment


def fill(package: str, template: str, **values: object) -> str:
    """Render a template of a package, such as `page.html` of `nas.report`, with `values` as its variables."""
    return _environment(package).get_template(template).render(values)
