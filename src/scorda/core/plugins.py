"""Classes that a package declares, and objects of other packages by ``module:object`` or by name.

A package announces its methods, systems and priors as entry points of the groups
``scorda.methods``, ``scorda.systems`` and ``scorda.priors``, in its pyproject.toml::

    [project.entry-points."scorda.methods"]
    my-filter = "my_package.filters:MyFilter"

Code is run only where the user names it, on the command line or in a file of settings that he
passes. What a data file names is built in or announced.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_type_hints

__all__ = ["announced", "declared", "imported", "is_code", "named_by_user"]


def announced(group: str) -> dict[str, Any]:
    """Return the entry points of a group by name; `load` of each imports its object."""
    # Where the package importlib_metadata is in use, they are of its class, not of Python's.
    return {entry.name: entry for entry in entry_points(group=group)}


def declared(package: str, attribute: str) -> Iterator[tuple[str, ast.ClassDef, dict[str, str]]]:
    """Yield module, syntax and assignments of each public class that assigns an attribute.

    The files of the package are read, and none of its modules is imported.
    """
    folder = Path(importlib.import_module(package).__path__[0])
    for path in sorted(folder.rglob("*.py")):
        module = ".".join((package, *path.relative_to(folder).with_suffix("").parts))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                lines = [line for line in node.body if isinstance(line, ast.Assign)]
                values = {ast.unparse(line.targets[0]): ast.unparse(line.value) for line in lines}
                if attribute in values:
                    yield module, node, values


def is_code(name: str) -> bool:
    """Return whether a name is of the form ``"module:object"``."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name) is not None


def imported(name: str) -> Any:
    """Import ``"module:object"``; the current directory comes before Python's path.

    Raises:
        ValueError: If there is no such module, or no such object in it.
    """
    if not is_code(name):
        raise ValueError(f"{name!r} names no code: give module:object, such as my_package.file:f.")
    module_name, _, attribute = name.partition(":")
    # As `python -m` does; it stays, for the modules that the module imports later.
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Could not import {error.name!r} for {name!r}: start in the directory of the module, "
            "or install it."
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise ValueError(
            f"The module {module_name!r} has no {attribute!r}: check the name after the colon."
        ) from error


def named_by_user(name: str, kind: type) -> Any:
    """Import ``"module:object"``: an instance of a kind, a class of it, or a factory of it.

    A factory says so by the annotation of what it returns. Nothing is called here.

    Raises:
        ValueError: If there is no such object, or it is something else.
    """
    found = imported(name)
    if isinstance(found, kind):
        return found
    made = found if inspect.isclass(found) else _returned(found)
    if inspect.isclass(made) and issubclass(made, kind):
        return found
    raise ValueError(
        f"{name!r} is a {type(found).__name__}, which is not called: name a {kind.__name__}, a "
        f"class of it, or a function that is annotated to return one, `-> {kind.__name__}`."
    )


def _returned(function: Any) -> Any:
    """Return the annotation of what a function returns, None where it has none."""
    if not inspect.isfunction(function) and not inspect.ismethod(function):
        return None
    try:
        return get_type_hints(function).get("return")
    except (NameError, AttributeError, TypeError, SyntaxError):
        return None
