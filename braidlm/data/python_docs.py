"""Real English that every machine with Python has: its help topics and docstrings."""

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def python_doc_files() -> list[Path]:
    """Return the standard library's source files, help topics included, sorted by path."""
    root, files = _library(), []
    for folder, inside, names in os.walk(root):
        # Pruning matters: installed packages hold far more files than the library itself.
        inside[:] = [name for name in inside if name not in _SKIPPED]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(files, key=lambda f: f.relative_to(root).as_posix())


def read_python_docs() -> Iterator[tuple[str, str]]:
    """Yield (id, text) of the help topics and of the standard library's documentation.

    Each help topic is a document; so is each module: its docstring, then those of its classes
    and functions under their names. Sources are parsed, never imported. A docstring that stood
    before is left out. The text depends on the Python version alone.
    """
    root, seen = _library(), set[str]()
    for file in python_doc_files():
        name = file.relative_to(root).as_posix()
        tree = _parse(file)
        if name == "pydoc_data/topics.py":
            yield from _topics(tree)
        elif tree is not None and (text := _module_text(tree, seen)):
            yield name, text


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _parse(file: Path) -> ast.Module | None:
    """Return the syntax tree, or None where a distribution ships a file that does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, RecursionError, OSError):
            return None


def _topics(tree: ast.Module | None) -> Iterator[tuple[str, str]]:
    for node in tree.body if tree else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            for name in sorted(topics):
                yield f"topics/{name}", topics[name]


def _module_text(tree: ast.Module, seen: set[str]) -> str:
    parts = [_fresh(tree, seen)]
    parts += [f"{name}\n{doc}" for name, doc in _members(tree, "", seen)]
    return "\n\n".join(part for part in parts if part)


def _members(tree: ast.AST, prefix: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _DOCUMENTED):
            name = f"{prefix}{node.name}"
            if doc := _fresh(node, seen):
                yield name, doc
            yield from _members(node, f"{name}.", seen)
        elif isinstance(node, ast.stmt | ast.excepthandler):
            yield from _members(node, prefix, seen)


def _fresh(node: ast.Module | ast.AST, seen: set[str]) -> str:
    doc = (ast.get_docstring(node) or "").strip()  # type: ignore[arg-type]
    if doc in seen:
        return ""
    seen.add(doc)
    return doc
