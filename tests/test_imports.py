"""Modules import only modules above them in docs/design.md, and `import nas` is quick and imports no heavy package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nas.supernet import BertSupernet

ROOT = Path(__file__).parents[1] / "nas"
DESIGN = (ROOT.parent / "docs" / "design.md").read_text()
ROWS = [line for line in DESIGN.split("\n## Modules\n")[1].split("\n## ")[0].splitlines() if line.startswith("| `")]
"""The rows of the table of modules in docs/design.md."""
MODULES = [name for row in ROWS for name in re.findall(r"`(?:nas/)?(\w+)(?:\.py|/)`", row.split("|")[1])]
"""All modules in the order of that table. A module may import those before it."""


def _module(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "nas" else {module}
    return found


FILES = sorted(ROOT.rglob("*.py"))


def test_the_table_of_design_md_contains_each_module_once():
    assert sorted({_module(path) for path in FILES}) == sorted(MODULES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_modules_above_it_in_the_table(path):
    module = _module(path)
    for name in _imports(path):
        if name.startswith("nas."):
            other = name.split(".")[1]
            if other in MODULES:
                assert MODULES.index(other) <= MODULES.index(module), f"{module} must not import {other}"


def test_only_the_files_that_design_md_names_import_ray_and_only_search_imports_optuna():
    users = {package: set() for package in ("ray", "optuna")}
    for path in FILES:
        for name in _imports(path):
            if name.split(".")[0] in users:
                users[name.split(".")[0]].add(str(path.relative_to(ROOT)))
    (row,) = (row for row in ROWS if row.startswith("| `nas/cluster.py` |"))
    assert users["ray"] == set(re.findall(r"`(?:nas/)?([\w/]+\.py)`", row))
    assert {name.split("/")[0] for name in users["optuna"]} == {"search"}


def test_import_nas_imports_no_other_package_and_hardly_any_module():
    script = (
        "import sys; before = set(sys.modules); import nas\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('nas')))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["nas", "nas nas.waiting"]


def test_the_worker_that_measures_on_a_ray_node_starts_without_pytorch():
    script = "import sys, nas.latency.ray_worker; print(*{'torch', 'transformers', 'onnx'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_auto_classes_load_a_sub_network_after_register_auto_classes(tmp_path, space, supernet_weights):
    BertSupernet(supernet_weights).extract(space.smallest()).save_pretrained(tmp_path)
    script = (
        "import nas\nfrom transformers import AutoModelForSequenceClassification\nnas.register_auto_classes()\n"
        f"print(type(AutoModelForSequenceClassification.from_pretrained({str(tmp_path)!r})).__name__)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "CompactBertForSequenceClassification"


def test_public_names_are_callable_and_documented():
    import nas

    for name in nas.__all__:
        found = getattr(nas, name)
        assert callable(found) and found.__doc__, name
    assert set(nas.__all__) == set(nas._SOURCES)


def test_the_diagram_of_the_packages_shows_the_imports():
    """It has an arrow for each import between packages, even indirect ones, unless a longer path implies the import."""
    below: dict[str, set[str]] = {}
    for module in MODULES:
        paths = [path for path in FILES if _module(path) == module]
        names = {name.split(".")[1] for path in paths for name in _imports(path) if name.startswith("nas.")}
        others = (names & set(MODULES)) - {module}
        below[module] = others.union(*(below[other] for other in others))
    packages = {module for module in MODULES if (ROOT / module).is_dir()}
    needed = {package: below[package] & packages for package in packages}
    implied = {package: set().union(*(needed[other] for other in needed[package])) for package in packages}
    expected = {(other, package) for package in packages for other in needed[package] - implied[package]}
    diagram = DESIGN.split("```mermaid\n")[1].split("```")[0]
    assert set(re.findall(r"(\w+)(?:\[[^]]*\])? --> (\w+)", diagram)) == expected
