"""A trainer's source files, read without importing them: a trainer's import takes seconds."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from ablate.errors import TrainerError
from ablate.study import nearest


def version(module: str) -> str:
    """Hash of the *.py and *.yaml files of a module's top-level package by relative path and content, tests left out.

    Equal on every machine that holds the same files, whatever their line endings.

    Raises:
        TrainerError: No such module.
    """
    digest = hashlib.sha256()
    for relative, file in _sources(module):
        digest.update(f"{relative}\0".encode() + file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()[:20]


def callable_problem(name: str) -> str | None:
    """Why `package.module:callable` cannot be found, without importing its module."""
    module, _, attribute = name.partition(":")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        return f"cannot find {module} ({error}). Run from the folder that holds it, or install it."
    if spec is None:
        return f"cannot find the module {module}. Run from the folder that holds it, or install it."
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        return f"{module} cannot be read: {error}."
    names = set(_top_level_names(tree))
    if attribute in names or "*" in names:
        return None
    return f"{module} has no {attribute}.{nearest(attribute, sorted(names))}"


def _top_level_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        else:
            # Names bound under `if`, `try` or by assignment; a name too many only postpones the error.
            yield from (inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store))
            yield from (inner.name for inner in ast.walk(node) if isinstance(inner, (ast.FunctionDef, ast.ClassDef)))


def _sources(module: str) -> list[tuple[str, Path]]:
    """The files that decide what the trainer does, by relative path."""
    top = module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise TrainerError(f"trainer.callable: cannot find {top}. Run from the folder that holds it, or install it.")
    if spec.submodule_search_locations is None:
        return [(Path(spec.origin or "").name, Path(spec.origin or ""))]
    found = []
    for folder in map(Path, spec.submodule_search_locations):
        for file in folder.rglob("*"):
            relative = file.relative_to(folder)
            hidden = any(part in ("__pycache__", "tests") or part.startswith(".") for part in relative.parts)
            if file.suffix in (".py", ".yaml", ".yml") and not hidden and file.is_file():
                found.append((relative.as_posix(), file))
    return sorted(found)
