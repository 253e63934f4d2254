"""Settings of a command: from flags, from a TOML file, and back to one.

A command's settings are a dataclass whose field docstrings are the help text. A TOML file given
by ``--config`` holds the same keys (``-`` and ``_`` are alike); flags win over the file. The
options of a system or a method stand in a table of their own::

    observations = ["observations.csv"]
    members = 40

    [system]                    # or: system = "lorenz96"
    name = "lorenz96"           # --system lorenz96
    forcing = 8.0               # --system.forcing 8

    [method]
    name = "masf"               # --method masf
    inflation = 1.06            # --inflation 1.06

    [method.prior]              # --prior "local-gaussian:localization=0.4,block=2"
    name = "local-gaussian"
    localization = 0.4
    block = 2
"""

from __future__ import annotations

import difflib
import importlib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

__all__ = ["UserError", "check_keys", "expand", "plain", "to_toml"]

# Settings of each command: the class that holds them, in the module of the command.
SETTINGS = {
    "simulate": "Simulate",
    "train": "Train",
    "assimilate": "Assimilate",
    "bench": "Bench",
    "report": "Report",
    "demo": "Demo",
}


class UserError(Exception):
    """A mistake of the caller, told in one sentence."""


def expand(tokens: list[str]) -> list[str]:
    """Put the TOML file named by ``--config`` in the place of that flag, as flags.

    Also rewrites ``--system.dt 0.01`` to ``--system-options.dt 0.01``, gives the value "true" to
    options of a method that stand alone, such as ``--rotation``, and a first word without a flag
    the flag that the command names for it.

    Raises:
        UserError: If the file is missing or malformed, or has an unknown key; or a flag has a dot
            that is not of the system.
    """
    if not tokens or tokens[0] not in SETTINGS or "--help" in tokens or "-h" in tokens:
        return tokens
    command, rest = tokens[0], _split(tokens[1:])
    module = importlib.import_module(f"scorda.cli.{command}")
    kinds = getattr(module, SETTINGS[command])
    known = {field.name.replace("_", "-"): field for field in fields(kinds)}
    first = getattr(module, "FIRST_WORD", None)
    if first is not None and rest and not rest[0].startswith("--"):
        rest = [f"--{first}", *rest]
    if "--config" in rest:
        at = rest.index("--config")
        if at + 1 == len(rest):
            raise UserError("--config needs the name of a TOML file.")
        path, rest = Path(rest[at + 1]), rest[:at] + rest[at + 2 :]
        given = {token for token in rest if token.startswith("--")}
        takes_options = getattr(module, "TAKES_OPTIONS", False)
        for flag, values in _flags(_read(path), path, list(known), takes_options).items():
            if flag not in given:
                rest += [part for value in values for part in ([flag, *value])]
    done: list[str] = []
    for i, token in enumerate(rest):
        if token.startswith("--system."):
            token = "--system-options." + token.removeprefix("--system.")
        elif token.startswith("--") and "." in token and not token.startswith("--system-options."):
            name = token.rsplit(".", 1)[1]
            raise UserError(
                f"Got {token}: only options of the system have a dot, as in --system.{name}; "
                f"one of the method is --{name}."
            )
        done.append(token)
        alone = i + 1 == len(rest) or rest[i + 1].startswith("--")
        if token.startswith("--") and alone and token[2:] not in known and "." not in token:
            done.append("true")
    return [command, *done]


def check_keys(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Check that all keys are known.

    Raises:
        UserError: If one is not; the sentence names the nearest that is.
    """
    names = sorted(known)
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}."
            raise UserError(f"Unknown {what} {key!r}: {advice}")


def plain(value: Any) -> Any:
    """A setting as JSON and TOML have it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def to_toml(content: Mapping[str, Any], table: str = "") -> str:
    """Plain settings as a TOML file, tables last; what is None is left out."""
    lines, tables = [], []
    for key, value in content.items():
        if isinstance(value, Mapping):
            name = f"{table}.{key}".lstrip(".")
            tables.append(f"\n[{name}]\n{to_toml(value, name)}")
        elif value is not None:
            # JSON's numbers, strings, booleans and lists are TOML's, but for infinity.
            endless = isinstance(value, float) and math.isinf(value)
            lines.append(f"{key} = {value if endless else json.dumps(value)}\n")
    return "".join(lines) + "".join(tables)


def _split(tokens: list[str]) -> list[str]:
    """``--key=value`` as two tokens."""
    parts: list[str] = []
    for token in tokens:
        flag, equals, value = token.partition("=")
        parts += [flag, value] if token.startswith("--") and equals else [token]
    return parts


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}: check the name after --config.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no TOML file: {error}.") from error


def _flags(
    content: Mapping[str, Any], path: Path, known: list[str], takes_options: bool
) -> dict[str, list[list[str]]]:
    """Content of a file as flags, each with a list of the values that it is given with."""
    flags: dict[str, list[list[str]]] = {}
    for raw, value in content.items():
        key = raw.replace("_", "-")
        check_keys([key], known, f"key in {path}")
        if isinstance(value, Mapping) and key in ("system", "method") and key in known:
            if key == "method" and not takes_options:
                raise UserError(f"{path} has a table [method]: this command has no such options.")
            for option, setting in value.items():
                inner = f"--{key}" if option == "name" else f"--{key}.{option}"
                if key == "method" and option != "name":
                    inner = f"--{option.replace('_', '-')}"
                flags[inner] = [[_text(setting)]]
        elif isinstance(value, Mapping):
            raise UserError(f"{path} has a table [{raw}]: {key} takes a value.")
        elif isinstance(value, bool):
            flags[f"--{key}"] = [[]] if value else []
        elif isinstance(value, list):
            flags[f"--{key}"] = [[_text(entry)] for entry in value]
        else:
            flags[f"--{key}"] = [[_text(value)]]
    return flags


def _text(value: Any) -> str:
    """A setting as a flag has it; what is made of several values in parentheses inside another."""
    if isinstance(value, Mapping):
        if "name" not in value:
            raise UserError(f"Got a table with {', '.join(value)} alone: give its `name` too.")
        inner = ",".join(f"{k}={_inside(v)}" for k, v in value.items() if k != "name")
        return f"{value['name']}:{inner}" if inner else str(value["name"])
    if isinstance(value, list):
        return f"({','.join(_inside(v) for v in value)})"
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _inside(value: Any) -> str:
    return f"({_text(value)})" if isinstance(value, Mapping) else _text(value)
