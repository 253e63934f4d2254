"""Methods by name, and their settings from text."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from scorda import methods as package
from scorda.assimilation.base import Assimilator
from scorda.cli.settings import UserError, check_keys

__all__ = ["find_method", "make_method", "methods", "options_of", "parts_of"]


class _UnknownName(UserError):
    """None of the parts of a kind has that name."""


def methods() -> dict[str, type[Assimilator]]:
    """Every method of the library by the name that the command line gives it."""
    found: dict[str, type[Assimilator]] = {}
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        content = importlib.import_module(module.name)
        for kind in vars(content).values():
            own = inspect.isclass(kind) and kind.__module__ == module.name
            if own and issubclass(kind, Assimilator) and not inspect.isabstract(kind):
                if not kind.__name__.startswith("_"):
                    found[_shell_name(kind.__name__)] = kind
    return dict(sorted(found.items()))


def find_method(name: str) -> type[Assimilator]:
    """Method of that name; case and hyphens do not matter.

    Raises:
        UserError: If there is none; the sentence names the nearest.
    """
    known = methods()
    for candidate, kind in known.items():
        if candidate.replace("-", "") == re.sub(r"[-_ ]", "", name).lower():
            return kind
    check_keys([name.lower()], known, "method")
    raise AssertionError


def options_of(kind: type) -> dict[str, Field[Any]]:
    """Settings of a method or of one of its parts that a user may give, by name."""
    if not is_dataclass(kind):
        return {}
    return {f.name: f for f in fields(kind) if f.init and not f.name.startswith("_")}


def needs_trained_prior(kind: type) -> bool:
    """Whether the setting `prior` of a method is a trained prior, not one of the ensemble."""
    from scorda.priors.trajectory import Prior

    prior = get_type_hints(kind).get("prior")
    return inspect.isclass(prior) and issubclass(prior, Prior)


def make_method(name: str, options: Mapping[str, Any], prior: str | None = None) -> Assimilator:
    """Make a method from text.

    Arguments:
        name: Its name.
        options: Settings by name; ``-`` and ``_`` are alike. A setting that is itself made of
            settings is written ``name`` or ``name:key=value,key=value``, in parentheses where it
            is a value there; several numbers or names are ``(a,b)``.
        prior: File or name of a trained prior, for methods that take one; or the prior that a
            filter makes of its ensemble, as text like any other setting.

    Raises:
        UserError: If an option is unknown or has a value that does not fit.
    """
    kind = find_method(name)
    known = options_of(kind)
    given = {key.replace("-", "_"): value for key, value in options.items()}
    hints = get_type_hints(kind)
    trained = needs_trained_prior(kind)
    if trained:
        if prior is None:
            raise UserError(
                f"The method {name!r} needs a trained prior: give --prior a file of weights."
            )
        from scorda.priors.trajectory import load

        given["prior"] = load(prior)
    elif prior is not None:
        if "prior" not in known:
            raise UserError(f"The method {name!r} takes no prior: leave --prior out.")
        given["prior"] = prior
    check_keys(given, known, f"option of {name}")
    made = {
        key: value if key == "prior" and trained else _parsed(hints[key], value, key)
        for key, value in given.items()
    }
    if missing := _missing(known, made):
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in missing)
        raise UserError(f"The method {name!r} needs {flags}.")
    return kind(**made)


def _missing(known: Mapping[str, Field[Any]], given: Mapping[str, Any]) -> list[str]:
    """Settings without a default that are not given."""
    return [
        key
        for key, field in known.items()
        if field.default is MISSING and field.default_factory is MISSING and key not in given
    ]


def parts_of(kind: type, name: str) -> dict[str, list[str]]:
    """What a setting of a method may be made of, by name, each with its own settings."""
    hint = get_type_hints(kind)[name]
    kinds = [k for k in (hint, *get_args(hint)) if inspect.isclass(k) and not _is_plain(k)]
    return {_shell_name(c.__name__): _written(c) for k in kinds for c in _concrete(k)}


def _written(kind: type) -> list[str]:
    """Settings that text can give: not those that are tables of tensors."""
    hints = get_type_hints(kind)
    return [key for key in options_of(kind) if "Mapping" not in str(hints[key])]


def _shell_name(name: str) -> str:
    """``ParticleFilter`` to particle-filter, ``BridgeODE`` to bridge-ode, ``EnKF`` to enkf."""
    words = re.findall(r"[A-Z][a-z]{2,}|[A-Z]{3,}$", name)
    return "-".join(words).lower() if "".join(words) == name else name.lower()


def _parsed(kind: Any, value: Any, name: str) -> Any:
    """Value of a setting of the annotated type, from text."""
    if not isinstance(value, str):
        return value
    flag = f"--{name.replace('_', '-')}"
    if get_origin(kind) in (Union, types.UnionType):
        # A name may have no parentheses, so that what has them is a tuple where it can be.
        bare = not value.startswith("(")
        options = sorted(get_args(kind), key=lambda option: _is_tuple(option) == bare)
        if type(None) in options and value.lower() in ("none", "null"):
            return None
        errors = []
        for option in options:
            if option is type(None):
                continue
            try:
                return _parsed(option, value, name)
            except UserError as error:
                errors.append(error)
        # Of several kinds the one that has the name says what is wrong.
        raise next((e for e in errors if not isinstance(e, _UnknownName)), errors[0])
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"Got {flag} {value}: choose {' or '.join(get_args(kind))}.")
        return value
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise UserError(f"Got {flag} {value}: give true or false.")
        return value.lower() == "true"
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError as error:
            word = "a whole number" if kind is int else "a number"
            raise UserError(f"Got {flag} {value}: give {word}.") from error
    if kind is str:
        if value.startswith("("):
            raise UserError(f"Got {flag} {value}: give one name, without parentheses.")
        return value
    if _is_tuple(kind) and ... not in get_args(kind):
        kinds, parts = get_args(kind), _parts(_bare(value), flag)
        if len(parts) != len(kinds):
            raise UserError(f"Got {flag} {value}: give {len(kinds)} values, between commas.")
        return tuple(_parsed(*pair, name) for pair in zip(kinds, parts, strict=True))
    if inspect.isclass(kind):
        return _made(kind, value, name)
    raise UserError(f"{flag} cannot be given on the command line: use the Python interface.")


def _made(kind: type, value: str, name: str) -> Any:
    """Part of a method, such as ``gaspari-cohn:radius=4``; a number alone is its first setting."""
    value, flag = _bare(value), f"--{name.replace('_', '-')}"
    head, _, rest = value.partition(":")
    known = options_of(kind)
    if known and not inspect.isabstract(kind) and re.fullmatch(r"[-+.\deE]+", value):
        first = next(iter(known))
        return kind(**{first: _parsed(get_type_hints(kind)[first], value, first)})
    kinds = {_shell_name(c.__name__): c for c in _concrete(kind)}
    plain = {shown.replace("-", ""): shown for shown in kinds}
    wanted = plain.get(re.sub(r"[-_]", "", head).lower(), head)
    try:
        check_keys([wanted], kinds, f"value of {flag}")
    except UserError as error:
        raise _UnknownName(*error.args) from None
    chosen = kinds[wanted]
    pairs = {}
    for part in _parts(rest, flag):
        key, equals, text = part.partition("=")
        if not equals:
            raise UserError(f"Got {part!r} in {flag} {value}: write {head}:key=value,key=value.")
        pairs[key.strip().replace("-", "_")] = text
    check_keys(pairs, options_of(chosen), f"setting of {head}")
    if missing := _missing(options_of(chosen), pairs):
        raise UserError(f"Got {flag} {value}: {head} needs {' and '.join(missing)}.")
    hints = get_type_hints(chosen)
    return chosen(**{key: _parsed(hints[key], text, key) for key, text in pairs.items()})


def _is_plain(kind: type) -> bool:
    return kind.__module__ == "builtins" or kind is types.NoneType


def _is_tuple(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is tuple


def _bare(value: str) -> str:
    """A value without parentheses around it."""
    value = value.strip()
    return value[1:-1] if value.startswith("(") and value.endswith(")") else value


def _parts(text: str, flag: str) -> list[str]:
    """What stands between the commas that are in no parentheses."""
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if depth != 0:
        raise UserError(f"Got {flag} with {text!r}: close every parenthesis that is opened.")
    return [part.strip() for part in parts] if text.strip() else []


def _concrete(kind: type) -> list[type]:
    """A class and all below it, as far as they can be made."""
    children: list[type] = kind.__subclasses__()
    below = [sub for child in children for sub in _concrete(child)]
    return ([] if inspect.isabstract(kind) else [kind]) + below
