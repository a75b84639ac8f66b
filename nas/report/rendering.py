"""Rendering of the HTML report and of the model card from the templates in `nas/report/templates`.

Templates contain the markup and the text. All other modules of `nas.report` prepare the values. In HTML templates, all
values are escaped except those of type `Markup`, such as charts. Every function of `nas.report.numbers` is available as
a filter. If a template uses a name without a value, rendering raises an error.
"""

from __future__ import annotations

from inspect import getmembers, isfunction

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from nas.report import numbers

_environment = Environment(
    loader=PackageLoader("nas.report"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.filters |= {"thousands": "{:,}".format, **dict(getmembers(numbers, isfunction))}


def fill(template: str, **values: object) -> str:
    """Render a template, such as `page.html`, with `values` as its variables."""
    return _environment.get_template(template).render(values)
