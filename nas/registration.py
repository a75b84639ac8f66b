"""Registration of the model type `compact_bert` with the Auto classes of transformers, without importing these.

`install`, which `nas` calls when it is imported, registers the classes at once if transformers is already imported.
Otherwise an import hook registers them as soon as the modules of the Auto classes are imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

_AUTO = "transformers.models.auto."


def _register_config(module: ModuleType) -> None:
    from nas.model.configuration import CompactBertConfig

    module.AutoConfig.register(CompactBertConfig.model_type, CompactBertConfig, exist_ok=True)


def _register_model(module: ModuleType) -> None:
    from nas.model import CompactBertConfig, modeling

    for name, model in modeling.AUTO_MODELS.values():
        getattr(module, name).register(CompactBertConfig, model, exist_ok=True)


_HOOKS: dict[str, Callable[[ModuleType], None]] = {
    f"{_AUTO}configuration_auto": _register_config,
    f"{_AUTO}modeling_auto": _register_model,
}


class _Finder(importlib.abc.MetaPathFinder):
    """A finder for the modules of the Auto classes, which makes their loader call a hook after the import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _HOOKS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, _HOOKS[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    """The original loader of a module, followed by a call of a hook with the module."""

    def __init__(self, loader: importlib.abc.Loader, hook: Callable[[ModuleType], None]) -> None:
        self._loader, self._hook = loader, hook

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._hook(module)


def install() -> None:
    """Register with modules that are already imported, and with the others as soon as they are imported."""
    sys.meta_path.insert(0, _Finder())
    for name, hook in _HOOKS.items():
        if name in sys.modules:
            hook(sys.modules[name])
