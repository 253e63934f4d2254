"""Commands whose flags are those of the method that is chosen, beside their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict

from scorda.cli.catalogue import find_method, options_of, settings_class
from scorda.cli.settings import UserError, flags_of, strings_of
from scorda.core.plugins import is_code

if TYPE_CHECKING:
    from scorda.assimilation.base import Assimilator

__all__ = ["check_before_code", "with_method"]


def with_method(
    kind: type,
    act: Callable[[Any, Callable[[], Assimilator], str | None], None],
    tokens: list[str],
    content: Mapping[str, Any],
) -> tuple[Callable[..., None], list[str], dict[str, Any]]:
    """Return the command for the method and parts that are chosen, its tokens and its file.

    A setting of the method loses ``method.``, in both, unless the command has one of its name.

    Arguments:
        kind: Dataclass of the settings of the command, of which one is ``method``.
        act: Function of these settings, of what makes the method (and may read weights for it),
            and the name of its prior, if one is given.
        tokens: Those of the command line.
        content: That of the file of settings.
    """
    check_before_code(kind, tokens, content)
    taken = [setting.name for setting in fields(kind)]
    tokens = [
        token.replace("method.", "", 1)
        if token.startswith("--method.")
        and token[len("--method.") :].split("=")[0].replace("-", "_") not in taken
        else token
        for token in tokens
    ]
    chosen = strings_of(content) | flags_of(tokens)
    name = str(chosen.get("method", kind.method))  # type: ignore[attr-defined]
    method_class = find_method(name)
    if "prior" in chosen and "prior" not in {*taken, *options_of(method_class)}:
        raise UserError(f"The method {name} takes no --prior: name one that does, such as sda.")
    options, make = settings_class(method_class, chosen, taken)

    def command(*, settings: Any = None, method: Any = None) -> None:
        act(settings or kind(), partial(make, method), chosen.get("prior"))

    group = f"Settings of the method {name}"
    command.__doc__ = act.__doc__
    command.__annotations__["settings"] = Annotated[kind | None, Parameter(name="*")]
    command.__annotations__["method"] = Annotated[options | None, Parameter(name="*", group=group)]
    table = {f"method.{k}" if k in taken else k: v for k, v in content.get("method", {}).items()}
    return command, tokens, {k: v for k, v in content.items() if k != "method"} | table


def check_before_code(kind: type, tokens: list[str], content: Mapping[str, Any]) -> None:
    """Check the settings of a command itself, where a setting of its method names code.

    The flags of a method are known once it is imported. Whatever can be wrong without it is told
    before, so that nothing is imported for a run that cannot be.

    Arguments:
        kind: Dataclass of these settings, with a `check`.
        tokens: Those of the command line.
        content: That of the file of settings.
    """
    chosen = strings_of(content) | flags_of(tokens)
    if not any(map(is_code, chosen.values())) or "help" in chosen:
        return

    def command(*, settings: Any = None) -> None: ...

    command.__annotations__["settings"] = Annotated[kind | None, Parameter(name="*")]
    own = {name.name for name in fields(kind)}
    table = {k: v for k, v in content.items() if k.replace("-", "_") in own - {"method"}}
    app = App(
        default_parameter=Parameter(negative_bool=(), negative_iterable=(), negative_none=()),
        config=Dict(table, use_commands_as_keys=False),
    )
    app.default(command)
    try:
        given = app.parse_known_args(tokens[1:])[1].arguments.get("settings")
    except CycloptsError as error:
        # As the command itself tells it: without the place in the source.
        error.verbose = False
        raise
    (given or kind()).check()
