"""The code of a user that a run depends on: modules, and what they import from their own folder.

Imports are read from the text, so that nothing is run and their order does not matter. What is
installed has a version of its own; of such a module its file alone is hashed. What is imported by
a name that is computed is not seen.
"""

from __future__ import annotations

import ast
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from scorda.core.fingerprint import fingerprint

__all__ = ["UNKNOWN", "code_of"]

UNKNOWN = "unknown"
# Modules of a folder that are hashed; reading so many takes about a second.
MOST = 300
INSTALLED = {"site-packages", "dist-packages"}


def code_of(modules: Iterable[str]) -> dict[str, str]:
    """Return a hash of the file of each module, and of those that they import from their folder.

    The folder is that which holds the outermost package of a module. A module is "unknown" where
    it has no file, as what is typed into a notebook.

    Arguments:
        modules: Names of modules that are imported.
    """
    files = {name: _file(name) for name in sorted(modules)}
    found = {name: UNKNOWN if file is None else fingerprint(file) for name, file in files.items()}
    left = deque((name, file) for name, file in files.items() if file is not None)
    while left and len(found) < MOST:
        name, file = left.popleft()
        package = name if file.stem == "__init__" else name.rpartition(".")[0]
        root = file.parents[len(package.split(".")) if package else 0]
        if INSTALLED & set(root.parts):
            continue
        for imported in (name, *_imported(file, package)):
            for inner, place in _places(imported, root):
                if inner not in found:
                    found[inner] = fingerprint(place)
                    left.append((inner, place))
    return dict(sorted(found.items()))


def _file(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).absolute() if file and Path(file).is_file() else None


def _imported(file: Path, package: str) -> Iterator[str]:
    """Yield what a module imports: names of modules, or of what is in them."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        # A compiled module.
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join(filter(None, [*(above if node.level else []), node.module]))
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _places(name: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the modules of a folder on the way to a name, with their files."""
    folders, parts = [str(root)], name.split(".")
    for depth in range(1, len(parts) + 1):
        inner = ".".join(parts[:depth])
        # By its last name: of a whole one Python would look up what holds it among the imported.
        spec = None if inner == "scorda" else PathFinder.find_spec(parts[depth - 1], folders)
        if spec is None:
            return
        if spec.has_location and spec.origin is not None:
            yield inner, Path(spec.origin)
        folders = list(spec.submodule_search_locations or [])
