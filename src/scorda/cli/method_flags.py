"""Commands whose flags are those of the method that is chosen, beside their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scorda.cli.catalogue import find_method, settings_class
from scorda.cli.settings import flags_of, strings_of

if TYPE_CHECKING:
    from scorda.assimilation.base import Assimilator

__all__ = ["with_method"]


def with_method(
    kind: type,
    act: Callable[[Any, Assimilator, str | None], None],
    tokens: list[str],
    content: Mapping[str, Any],
) -> tuple[Callable[..., None], list[str], dict[str, Any]]:
    """Return the command for the method and parts that are chosen, its tokens and its file.

    A setting of the method loses ``method.``, in both, unless the command has one of its name.

    Arguments:
        kind: Dataclass of the settings of the command, of which one is ``method``.
        act: Function of these settings, the method, and the name of its prior, if one is given.
        tokens: Those of the command line.
        content: That of the file of settings.
    """
    chosen = strings_of(content) | flags_of(tokens)
    name = str(chosen.get("method", kind.method))  # type: ignore[attr-defined]
    taken = [setting.name for setting in fields(kind)]
    options, make = settings_class(find_method(name), chosen, taken)

    def command(*, settings: Any = None, method: Any = None) -> None:
        act(settings or kind(), make(method), chosen.get("prior"))

    group = f"Settings of the method {name}"
    command.__doc__ = act.__doc__
    command.__annotations__["settings"] = Annotated[kind | None, Parameter(name="*")]
    command.__annotations__["method"] = Annotated[options | None, Parameter(name="*", group=group)]
    tokens = [
        token.replace("method.", "", 1)
        if token.startswith("--method.")
        and token[len("--method.") :].split("=")[0].replace("-", "_") not in taken
        else token
        for token in tokens
    ]
    table = {f"method.{k}" if k in taken else k: v for k, v in content.get("method", {}).items()}
    return command, tokens, {k: v for k, v in content.items() if k != "method"} | table
