"""Every private name of another package that care_mm uses is listed in docs/reliability.md."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
TREES = [ast.parse(file.read_text()) for file in sorted((ROOT / "care_mm").rglob("*.py"))]


def is_private(name: str) -> bool:
    documented = ("_", "_exit")  # os._exit
    return name.startswith("_") and not name.startswith("__") and name not in documented


def own_names() -> set[str]:
    """Return the private functions, classes, variables and attributes that care_mm defines."""
    names = set()
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


def used_names() -> set[str]:
    """Return the private attributes and modules that care_mm reads or imports."""
    names = set()
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            names.update((node.module or "").split("."), (alias.name for alias in node.names))
    return set(filter(is_private, names))


def test_private_names_of_other_packages_are_listed() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    foreign = used_names() - own_names()
    assert {"_schemes", "_foreach_norm", "_resume"} <= foreign
    assert not {name for name in foreign if name not in text}
