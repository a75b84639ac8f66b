"""Modules as text: where each name is defined or imported from, and the lines that a definition takes."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import resolve_name

from nas.errors import ExportError

_PRESENT = sys.stdlib_module_names | {"numpy", "torch", "transformers"}

Import = tuple[str, str]
"""Module and name; the name is empty where the module itself is imported."""


def is_present(module: str) -> bool:
    """Whether a module is there wherever a model is loaded: such ones are imported, all others copied."""
    return module.split(".", maxsplit=1)[0] in _PRESENT


@dataclass(frozen=True)
class Part:
    """A statement with the lines that belong to it: decorators and comments above, a docstring below."""

    node: ast.stmt
    first: int
    last: int
    """Line numbers, from 1, both included."""

    @property
    def is_block(self) -> bool:
        """Whether it is a function or a class."""
        return isinstance(self.node, ast.FunctionDef | ast.ClassDef)

    @property
    def names(self) -> list[str]:
        """What it defines."""
        if isinstance(self.node, ast.FunctionDef | ast.ClassDef):
            return [self.node.name]
        names = (part for part in ast.walk(self.node) if isinstance(part, ast.Name))
        return [name.id for name in names if isinstance(name.ctx, ast.Store)]


class Source:
    """A module as text, with what its names stand for. Imports inside functions count for the whole of it."""

    def __init__(self, module: str) -> None:
        self.module = import_module(module)
        self.lines = inspect.getsource(self.module).split("\n")
        tree = ast.parse("\n".join(self.lines))
        self.about = (ast.get_docstring(tree) or "").split("\n\n")[0]
        self.imported = {bound: origin for node in ast.walk(tree) for bound, origin in self._imports(node)}
        self.defined = {name: part for part in self.parts(tree.body) for name in part.names}

    def _imports(self, node: ast.AST) -> Iterator[tuple[str, Import]]:
        """The names that an import binds, and what they stand for."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.split(".", maxsplit=1)[0]
                yield (alias.asname, (alias.name, "")) if alias.asname else (package, (package, ""))
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), self.module.__package__)
            yield from ((alias.asname or alias.name, (module, alias.name)) for alias in node.names)

    def parts(self, body: Iterable[ast.stmt]) -> list[Part]:
        """The statements of a body, what is for type checkers alone among them."""
        found: list[Part] = []
        for node in body:
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                found += self.parts(node.body)
                continue
            last = node.end_lineno or node.lineno
            if isinstance(node, ast.Expr) and found and not found[-1].is_block:
                found[-1] = Part(found[-1].node, found[-1].first, last)
                continue
            first = min(above.lineno for above in (node, *getattr(node, "decorator_list", [])))
            while first > 1 and self.lines[first - 2].lstrip().startswith("#"):
                first -= 1
            found.append(Part(node, first, last))
        return found

    def text(self, part: Part, members: Collection[Part] = ()) -> str:
        """The lines of a part, without the imports inside; of a class those of some of its members."""
        dropped: set[int] = set()
        for node in ast.walk(part.node):
            if isinstance(node, ast.Import | ast.ImportFrom):
                last = node.end_lineno or node.lineno
                dropped |= {*range(node.lineno, last + 1 + (not self.lines[last].strip()))}  # and a blank one behind
        if isinstance(part.node, ast.ClassDef):
            above = part.node.body[0].lineno - 1
            for member in self.parts(part.node.body):
                if member not in members:
                    dropped |= {*range(above + 1, member.last + 1)}
                above = member.last
        kept = (self.lines[line - 1] for line in range(part.first, part.last + 1) if line not in dropped)
        return textwrap.dedent("\n".join(kept)).rstrip()


@cache
def source(module: str) -> Source:
    """A module that can be imported. Raises `ExportError` where it stands in no file."""
    try:
        return Source(module)
    except (ImportError, OSError, TypeError):
        raise ExportError(
            f"{module}: what an export needs must stand in a file, but its source cannot be read; move it to one"
        ) from None
