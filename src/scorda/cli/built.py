"""Methods that a text names together with their settings, and grids of settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from scorda.cli.catalogue import find_method, options_of, settings_class
from scorda.cli.settings import UserError, check_keys

if TYPE_CHECKING:
    from scorda.assimilation.base import Assimilator

__all__ = ["built", "grid_of", "methods_of", "tried"]


def methods_of(text: str) -> dict[str, Assimilator]:
    """Return methods by what names them, of a text such as ``enkf, letkf localization=4``.

    Raises:
        UserError: If one is unknown, or has no such setting or value.
    """
    found: dict[str, Assimilator] = {}
    for part in text.split(","):
        name, *settings = part.split() or [""]
        if not name:
            raise UserError(f"Got --method {text!r}: name methods, with a comma between them.")
        if part.strip() in found:
            raise UserError(f"Got --method {part.strip()} twice: leave one out.")
        found[part.strip()] = built(name, dict(_pair(one, "--method") for one in settings))
    return found


def built(name: str, settings: Mapping[str, str], like: Assimilator | None = None) -> Assimilator:
    """Return a method with settings as flags have them, such as ``{"prior.block": "2"}``.

    Arguments:
        name: The method.
        settings: Those that are given.
        like: A method of this class with all others; None: they have their defaults.

    Raises:
        UserError: If there is no such method, setting or value.
    """
    kind = find_method(name) if like is None else type(like)
    known = [key.split(".")[0].replace("-", "_") for key in settings]
    check_keys(known, options_of(kind), f"setting of {name}")
    options, make = settings_class(kind, settings, like=like)

    def command(*, method: Any = None) -> Any:
        return make(method)

    command.__annotations__["method"] = Annotated[options | None, Parameter(name="*")]
    app = App(
        default_parameter=Parameter(negative_bool=(), negative_iterable=(), negative_none=()),
        result_action="return_value",
    )
    app.default(command)
    tokens = [f"--{key}={value}" for key, value in settings.items()]
    try:
        return app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        error.verbose = False
        words = " ".join(f"{key}={value}" for key, value in settings.items())
        raise UserError(f"{name} cannot have {words}: {error}") from error


def grid_of(given: Sequence[str]) -> dict[str, list[str]]:
    """Return values by setting, of texts such as ``inflation=1,1.02,1.05``.

    Raises:
        UserError: If one is none of that form, or a setting is there twice.
    """
    found: dict[str, list[str]] = {}
    for name, values in (_pair(one, "--grid") for one in given):
        if name in found:
            raise UserError(f"Got --grid {name} twice: put all its values into one.")
        found[name] = [value.strip() for value in values.split(",")]
        if not all(found[name]):
            raise UserError(f"Got --grid {name}={values}: a value is missing.")
    return found


def tried(method: Assimilator, values: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
    """Return the values of a grid as a method has them, of those settings that it has.

    Arguments:
        method: The method with its other settings.
        values: Texts of the values; ``localization.radius`` is a value of ``localization``.
    """
    known, found = options_of(type(method)), {}
    for key, texts in values.items():
        field = key.split(".")[0].replace("-", "_")
        if field in known:
            made = [built(method.name, {key: text}, method) for text in texts]
            found[field] = [getattr(one, field) for one in made]
    return found


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise UserError(f"Got {flag} {text}: give a setting and its value, as inflation=1.02.")
    return name.strip(), value.strip()
