"""The modelling file of an export: all that a network needs to be loaded without `nas`, from the sources that nas runs.

From the model's class on, every name that is mentioned is followed to where it is defined, and what stands there is
copied as it is. Of a class those members are copied that something copied mentions, or that a class of torch or
transformers above it knows. A compression choice needs nothing for it but a file that it stands in.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from typing import Any

from nas import __version__
from nas.compression import REGISTRY, compression
from nas.errors import ExportError
from nas.export.sources import Import, Part, is_present, source
from nas.form import NetworkType
from nas.model import CompactBertConfig
from nas.model.modeling import AUTO_MODELS

MODELING_FILE = "modeling_compact_bert.py"
_MODULE = MODELING_FILE.removesuffix(".py")
_FOR_CALLERS = {"settle"}
"""What nothing in the file mentions, but who has loaded the model may call."""
_REGISTRY = ("nas.compression", "REGISTRY")
"""It is written anew: it names the choices of this network."""
_HEAD = '''"""A compact BERT, whose layers have sizes and compression choices of their own.

Written by nas {version} (Apache-2.0), from its own sources: what the network in this folder needs of them. With torch
and transformers alone it is loaded by

    {auto_class}.from_pretrained(folder, trust_remote_code=True)
"""

from __future__ import annotations

'''


def auto_map(network_type: NetworkType) -> dict[str, str]:
    """Where `config.json` says that the classes of a network of that type are defined."""
    name, model = AUTO_MODELS[network_type]
    return {"AutoConfig": f"{_MODULE}.{CompactBertConfig.__name__}", name: f"{_MODULE}.{model.__name__}"}


def modeling_source(config: CompactBertConfig) -> str:
    """The text of a Python file that defines a network's model and configuration, of torch and transformers alone.

    Raises as `source_of` does.
    """
    return source_of(config.architecture.choices, config.network_type)


def source_of(choices: Iterable[str], network_type: NetworkType = "sequence_classifier") -> str:
    """The text of such a file for networks with some compression choices.

    Raises `ExportError` where the source of a choice cannot be read, or names collide.
    """
    names = sorted({name for spec in choices for name in compression(spec).names})
    return _Copy({name: REGISTRY[name] for name in names}, network_type).text()


def _order(name: str) -> tuple[int, str]:
    """The place of an imported name among others: constants, then classes, then the rest, each by the alphabet."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name.lower()


class _Copy:
    """What is copied for a network with some compression choices, by name."""

    def __init__(self, choices: dict[str, type], network_type: NetworkType) -> None:
        self.choices = choices
        self.auto_class, model = AUTO_MODELS[network_type]
        self.definitions: dict[str, str] = {}
        """Names with the modules that define them."""
        self.imports: dict[str, Import] = {}
        self.mentioned = set(_FOR_CALLERS)
        """Names of attributes."""
        self.readers: dict[str, list[str]] = {}
        """For each module those that mention something of it."""
        self._follow(model.__module__, model.__name__)
        size = 0
        while size != (size := len(self.definitions) + len(self.mentioned)):
            for name, module in list(self.definitions.items()):
                self._read(module, name)

    def _read(self, module: str, name: str) -> None:
        """Follow all that a definition mentions, as far as it is copied itself."""
        if (module, name) == _REGISTRY:
            for choice in self.choices.values():
                self._follow(choice.__module__, choice.__name__, module)
            return
        part, imported = source(module).defined[name], source(module).imported
        whole: list[ast.AST] = [part.node]
        if isinstance(part.node, ast.ClassDef):
            members = (member.node for member in self._members(module, part.node))
            whole = [*part.node.bases, *part.node.decorator_list, *members]
        for node in (inner for outer in whole for inner in ast.walk(outer)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self._follow(module, node.id)
            elif isinstance(node, ast.Attribute):
                origin = imported.get(node.value.id) if isinstance(node.value, ast.Name) else None
                if origin is None or not is_present(origin[0]):  # `functional.linear` mentions no method `linear`
                    self.mentioned.add(node.attr)

    def _members(self, module: str, node: ast.ClassDef) -> list[Part]:
        """The members of a class that are copied."""
        cls: Any = getattr(source(module).module, node.name)
        above = [base for base in cls.__mro__ if base is not object and is_present(base.__module__)]

        def is_kept(member: Part) -> bool:
            is_field = is_dataclass(cls) and isinstance(member.node, ast.AnnAssign)
            return not member.names or is_field or any(map(is_known, member.names))

        def is_known(name: str) -> bool:
            return name in self.mentioned or name.startswith("__") or any(hasattr(base, name) for base in above)

        return [member for member in source(module).parts(node.body) if is_kept(member)]

    def _follow(self, module: str, name: str, reader: str = "") -> None:
        """Note what a name of a module stands for: a definition, an import, or nothing beyond its function."""
        found, reader = source(module), reader or module
        if name in found.defined:
            self._note(self.definitions, name, module)
            if reader != module and reader not in self.readers.setdefault(module, []):
                self.readers[module].append(reader)
        elif name in found.imported:
            origin, original = found.imported[name]
            if is_present(origin):
                self._note(self.imports, name, (origin, original))
            elif original == name:
                self._follow(origin, name, reader)
            else:
                raise ExportError(
                    f"{module}: what an export needs must be imported by its own name, but {name!r} stands for "
                    f"{original or 'the module'} of {origin}; import it with from ... import"
                )

    def _note(self, found: dict[str, Any], name: str, origin: Any) -> None:
        known = self.definitions.get(name) or self.imports.get(name) or origin
        if known != origin:
            raise ExportError(
                f"{name!r}: a name may stand for one thing in an export, but it comes of {known} and of {origin}; "
                "rename one"
            )
        found[name] = origin

    def text(self) -> str:
        """The file: its head, then what comes of each module."""
        head = _HEAD.format(version=__version__, auto_class=self.auto_class) + "\n".join(self._import_lines())
        return f"{head}\n\n" + "\n\n\n".join(map(self._section, self._modules())) + "\n"

    def _import_lines(self) -> Iterator[str]:
        """The imports, those of the standard library first."""
        whole = sorted((module, key) for key, (module, name) in self.imports.items() if not name)
        lines = [(module, f"import {module}{'' if key == module else f' as {key}'}") for module, key in whole]
        for module in sorted({module for module, name in self.imports.values() if name}):
            bound = {key: name for key, (origin, name) in self.imports.items() if origin == module and name}
            names = sorted((name if name == key else f"{name} as {key}" for key, name in bound.items()), key=_order)
            lines.append((module, f"from {module} import {', '.join(names)}"))
        ours = [line for module, line in lines if module.split(".")[0] in sys.stdlib_module_names]
        yield from [*ours, "", *(line for _, line in lines if line not in ours)]

    def _modules(self) -> list[str]:
        """The modules that something is copied from, each before those that mention it."""
        ordered: list[str] = []
        seen: set[str] = set()

        def place(module: str) -> None:
            if module not in seen:
                seen.add(module)
                for reader in self.readers.get(module, []):
                    place(reader)
                ordered.insert(0, module)

        for module in self.definitions.values():
            place(module)
        return ordered

    def _section(self, module: str) -> str:
        """What is copied of a module, in its order, below its name and purpose."""
        about = textwrap.wrap(f"{module}: {source(module).about}", 118, break_long_words=False)
        text, before = "\n".join(f"# {line}" for line in about), None
        for name, part in source(module).defined.items():
            if self.definitions.get(name) == module and part != before:
                gap = "\n\n\n" if part.is_block or (before and before.is_block) else "\n" if before else "\n\n"
                text, before = text + gap + self._definition(module, name), part
        return text

    def _definition(self, module: str, name: str) -> str:
        part = source(module).defined[name]
        if (module, name) == _REGISTRY:
            lines = (f'    "{key}": {choice.__name__},' for key, choice in self.choices.items())
            return "\n".join([f"{name} = {{", *lines, "}"])
        members = self._members(module, part.node) if isinstance(part.node, ast.ClassDef) else []
        return source(module).text(part, members)
