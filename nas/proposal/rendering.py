"""Rendering of the proposed TOML files from the templates in `nas/proposal/templates`.

The filter `toml` turns a value into a TOML literal. If a template uses a name without a value, rendering raises an
error.
"""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from nas.files import toml_literal

_environment = Environment(
    loader=PackageLoader("nas.proposal"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.filters["toml"] = toml_literal


def fill(template: str, **values: object) -> str:
    """Render a template, such as `study.toml.jinja`, with `values` as its variables."""
    return _environment.get_template(template).render(values)
