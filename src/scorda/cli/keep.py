"""The setting ``--keep``: what a run stores of its ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scorda.store.keep import Keep

__all__ = ["KeepFlags", "keep_of", "spelled_out"]


@dataclass
class KeepFlags:
    """What to store of the ensemble, beside all of its last step (default: all of it)."""

    statistics: list[str] = field(default_factory=list)
    """Statistics of all members to store, also as --keep alone: mean, std, and quantiles such as
    q05, with commas between them."""

    members: int | None = None
    """Number of members to store, the first ones (default: none where there are statistics, else
    all)."""

    steps: str | int = 1
    """Store every n-th step, from step 0 on, or "last", the last one alone."""

    variables: list[str] = field(default_factory=list)
    """Variables to store, with commas between them (default: all)."""


def keep_of(given: KeepFlags | None) -> Keep | None:
    """Return what to keep, or None for all.

    Raises:
        ValueError: If something in it cannot be kept.
    """
    from scorda.store.keep import Keep

    if given is None:
        return None
    steps: Any = given.steps
    if isinstance(steps, str) and steps.isdecimal():
        steps = int(steps)
    return Keep(_split(given.variables) or None, steps, given.members, _split(given.statistics))


def spelled_out(tokens: Sequence[str], content: dict[str, Any]) -> list[str]:
    """Return tokens of which ``--keep`` alone is ``--keep.statistics``, as in the file."""
    if isinstance(content.get("keep"), str | list):
        given = content["keep"]
        content["keep"] = {"statistics": [given] if isinstance(given, str) else given}
    alone = [token.split("=")[0] == "--keep" for token in tokens]
    return [
        token.replace("--keep", "--keep.statistics", 1) if short else token
        for token, short in zip(tokens, alone, strict=True)
    ]


def _split(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.strip() for value in values for part in value.split(","))
