"""Find the origin of each name and the lines of each definition in the source code of Python modules.

`standalone.py` uses this module to copy definitions into the modelling file of an export.
"""

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

_INSTALLED_MODULES = sys.stdlib_module_names | {"numpy", "torch", "transformers"}

Import = tuple[str, str]
"""An import, as a pair of a module's name and the name of an object in the module. The second name is empty if the
module itself is imported.
"""


def is_present(module: str) -> bool:
    """Whether a module can be assumed to be installed wherever exports are loaded.

    The modelling file of an export imports from such modules. Code from other modules is copied into the file.
    """
    return module.split(".", maxsplit=1)[0] in _INSTALLED_MODULES


@dataclass(frozen=True)
class Part:
    """A statement and the lines that belong to it: decorators and comments above it, and a docstring below it."""

    node: ast.stmt
    first: int
    last: int
    """`first` and `last` are the numbers of the first and the last line, counted from 1."""

    @property
    def is_block(self) -> bool:
        """Whether the statement is a function or a class."""
        return isinstance(self.node, ast.FunctionDef | ast.ClassDef)

    @property
    def names(self) -> list[str]:
        """The names that the statement defines."""
        if isinstance(self.node, ast.FunctionDef | ast.ClassDef):
            return [self.node.name]
        names = (part for part in ast.walk(self.node) if isinstance(part, ast.Name))
        return [name.id for name in names if isinstance(name.ctx, ast.Store)]


class ModuleSource:
    """The source code of a module, with the definition or import that each name refers to.

    Imports inside functions are treated like imports at the top of the module.
    """

    def __init__(self, module: str) -> None:
        self.module = import_module(module)
        self.lines = inspect.getsource(self.module).split("\n")
        tree = ast.parse("\n".join(self.lines))
        self.about = (ast.get_docstring(tree) or "").split("\n\n")[0]
        self.imported = {bound: origin for node in ast.walk(tree) for bound, origin in self._imports(node)}
        self.defined = {name: part for part in self.parts(tree.body) for name in part.names}
        self._uses: dict[ast.AST, tuple[list[str], set[str]]] = {}
        self._members: dict[ast.ClassDef, list[Part]] = {}

    def _imports(self, node: ast.AST) -> Iterator[tuple[str, Import]]:
        """Yield each name that an import statement defines, with its origin. For any other statement, yield nothing."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.split(".", maxsplit=1)[0]
                yield (alias.asname, (alias.name, "")) if alias.asname else (package, (package, ""))
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), self.module.__package__)
            yield from ((alias.asname or alias.name, (module, alias.name)) for alias in node.names)

    def parts(self, body: Iterable[ast.stmt]) -> list[Part]:
        """Return the statements in the body of a module or class, including those under `if TYPE_CHECKING`."""
        statements: list[Part] = []
        for node in body:
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                statements += self.parts(node.body)
                continue
            last = node.end_lineno or node.lineno
            if isinstance(node, ast.Expr) and statements and not statements[-1].is_block:
                statements[-1] = Part(statements[-1].node, statements[-1].first, last)
                continue
            first = min(above.lineno for above in (node, *getattr(node, "decorator_list", [])))
            while first > 1 and self.lines[first - 2].lstrip().startswith("#"):
                first -= 1
            statements.append(Part(node, first, last))
        return statements

    def members(self, node: ast.ClassDef) -> list[Part]:
        """Return the statements in the body of a class."""
        if node not in self._members:
            self._members[node] = self.parts(node.body)
        return self._members[node]

    def uses(self, node: ast.AST) -> tuple[list[str], set[str]]:
        """Return the names that the code in `node` reads, and the attributes that this code accesses.

        Attributes of installed modules are left out. For example, `functional.linear` does not count as a use of a
        method `linear`.
        """
        if node not in self._uses:
            names, attributes = list[str](), set[str]()
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load):
                    names.append(inner.id)
                elif isinstance(inner, ast.Attribute):
                    origin = self.imported.get(inner.value.id) if isinstance(inner.value, ast.Name) else None
                    if origin is None or not is_present(origin[0]):
                        attributes.add(inner.attr)
            self._uses[node] = list(dict.fromkeys(names)), attributes
        return self._uses[node]

    def text(self, part: Part, members: Collection[Part] = ()) -> str:
        """Return the source lines of `part` without its imports. A class is reduced to the members in `members`."""
        dropped: set[int] = set()
        for node in ast.walk(part.node):
            if isinstance(node, ast.Import | ast.ImportFrom):
                last = node.end_lineno or node.lineno
                dropped |= {*range(node.lineno, last + 1 + (not self.lines[last].strip()))}  # and a blank line below
        if isinstance(part.node, ast.ClassDef):
            above = part.node.body[0].lineno - 1
            for member in self.members(part.node):
                if member not in members:
                    dropped |= {*range(above + 1, member.last + 1)}
                above = member.last
        kept_lines = (self.lines[line - 1] for line in range(part.first, part.last + 1) if line not in dropped)
        return textwrap.dedent("\n".join(kept_lines)).rstrip()


@cache
def source(module: str) -> ModuleSource:
    """Return the source of a module. Raises `ExportError` if the module cannot be imported or has no source file."""
    try:
        return ModuleSource(module)
    except (ImportError, OSError, TypeError):
        raise ExportError(
            f"{module}: code that an export needs must be in a file, but this module has no readable source file; "
            "move the code to a file"
        ) from None
