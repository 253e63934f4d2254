"""Settings of a command: from flags and from a TOML file, and back to one.

The settings of a command are a dataclass whose field docstrings are the help text; cyclopts reads
them. A TOML file given by ``--config`` holds the same keys (``-`` and ``_`` are alike), and flags
win over it. What has settings of its own (a system, a method and its parts) is a table there, and
a flag with dots on the command line; its ``name`` is the flag itself::

    observations = ["observations.csv"]
    members = 40

    [system]
    name = "lorenz96"           # --system lorenz96
    forcing = 8.0               # --system.forcing 8

    [method]
    name = "masf"               # --method masf
    inflation = 1.06            # --inflation 1.06, or "rtps:0.9"

    [method.prior]
    name = "local-gaussian"     # --prior local-gaussian
    block = 2                   # --prior.block 2

    [method.prior.localization]
    radius = 4.0                # --prior.localization.radius 4

Such a file is trusted as a script is: it may name code of your own, as ``module:object``. Stores,
weights and other data are not: what they name is built in, or announced by an installed package.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

__all__ = [
    "SystemOptions",
    "UserError",
    "check_keys",
    "configured",
    "flags_of",
    "hyphenated",
    "letters",
    "plain",
    "refuse",
    "strings_of",
    "taken",
    "to_toml",
]


# --system.NAME VALUE, beside --system, the name of the system.
SystemOptions = Annotated[dict[str, str], Parameter(name="--system")]


class UserError(Exception):
    """A mistake of the caller, told in one sentence."""


def configured(tokens: list[str]) -> tuple[list[str], dict[str, Any], str]:
    """Read the TOML file that ``--config`` names.

    Returns:
        The tokens without ``--config`` but with the names of tables, the other content of the
        file as cyclopts takes it, and the name of the file.

    Raises:
        UserError: If there is no such file, or it is no TOML.
    """
    tokens = [part for token in tokens for part in _split(token, ("--config",))]
    if "--config" not in tokens:
        return tokens, {}, ""
    at = tokens.index("--config")
    if at + 1 == len(tokens):
        raise UserError("--config needs the name of a TOML file.")
    path, tokens = tokens[at + 1], tokens[:at] + tokens[at + 2 :]
    return (*taken(tokens, _read(Path(path))), path)


def taken(tokens: list[str], content: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return tokens with the names of tables, and the rest of the content of a file."""
    given = flags_of(tokens)
    names = _take_names(content, given)
    # cyclopts would read a table as the text of --system.
    if isinstance(content.get("system"), dict):
        options = content.pop("system")
        for flag in ("parameter", "bounded", "circular"):
            texts = options.pop(flag) if isinstance(options.get(flag), list) else []
            names += [f"--{flag}={text}" for text in texts if flag not in given]
        named = {f"system.{key}": str(value) for key, value in options.items()}
        names += [f"--{key}={value}" for key, value in named.items() if key not in given]
    return [*tokens, *names], content


def flags_of(tokens: Iterable[str]) -> dict[str, str]:
    """Return each flag, without its dashes, with the token that follows it; "": none does."""
    parts = [part for token in tokens for part in _split(token)]
    after = ["" if part.startswith("--") else part for part in parts[1:]]
    pairs = zip(parts, [*after, ""], strict=True)
    return {flag[2:]: value for flag, value in pairs if flag.startswith("--")}


def strings_of(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts and numbers of a file by the flags that they stand for."""
    found = {
        key: str(value)
        for key, value in content.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    for key, table in content.items():
        if isinstance(table, Mapping):
            for inner, value in strings_of(table).items():
                at = inner if key == "method" else f"{key}.{inner}"
                found[key if inner == "name" else at] = value
    return found


def check_keys(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Check that all keys are known.

    Raises:
        UserError: If one is not; the sentence names the nearest that is.
    """
    names = sorted(known)
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]!r}?" if near else f"choose {', '.join(names)}."
            raise UserError(f"Unknown {what} {key!r}: {advice}")


def refuse(given: Any, names: Iterable[str], reason: str) -> None:
    """Refuse settings that would have no effect; the reason ends the sentence.

    Raises:
        UserError: If one of them is not as it is by default.
    """
    usual = type(given)()
    for name in names:
        if getattr(given, name) != getattr(usual, name):
            raise UserError(f"Got --{name.replace('_', '-')}, which {reason}.")


def letters(name: str) -> str:
    """Return a name as it is compared: case, hyphens and underscores do not matter."""
    return re.sub(r"[-_ ]", "", name).lower()


def plain(value: Any) -> Any:
    """Return a setting as JSON and TOML have it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def to_toml(content: Mapping[str, Any], table: str = "") -> str:
    """Write plain settings as a TOML file, tables last; what is None is left out."""
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


def _split(token: str, flags: Collection[str] | None = None) -> list[str]:
    """Split ``--key=value`` into two tokens, for these flags or for all."""
    flag, equals, value = token.partition("=")
    wanted = flag.startswith("--") if flags is None else flag in flags
    return [flag, value] if equals and wanted else [token]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = hyphenated(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}: check the name after --config.") from error
    except RecursionError as error:
        raise UserError(f"{path} has tables in tables, or lists in lists, too deep.") from error
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise UserError(f"{path} is no TOML file: {error}.") from error
    if isinstance(content.get("method"), str):
        content["method"] = {"name": content["method"]}
    if not isinstance(content.get("method", {}), dict):
        raise UserError(f"{path} has method = {content['method']!r}: give its name, or a table.")
    return content


def hyphenated(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the names that flags have."""
    return {
        # The options of a system are arguments of its function, which keep their names.
        key.replace("_", "-"): hyphenated(value)
        if isinstance(value, dict) and key != "system"
        else value
        for key, value in content.items()
    }


def _take_names(content: dict[str, Any], given: Mapping[str, str], table: str = "") -> list[str]:
    """Take the names out of tables, as flags.

    A table whose flag names something else is left out: its settings are not those of another.
    """
    names: list[str] = []
    for key, value in list(content.items()):
        if not isinstance(value, dict):
            continue
        flag = f"{table}.{key}".removeprefix(".").removeprefix("method.")
        name = value.pop("name", None)
        if name is not None and not isinstance(name, str):
            raise UserError(f"Got the name {name!r} of {flag!r}: give a text.")
        if name is not None and letters(given.get(flag, name)) != letters(name):
            del content[key]
            continue
        if name is not None and flag not in given:
            names += [f"--{flag}", str(name)]
        names += _take_names(value, given, f"{table}.{key}")
    return names
