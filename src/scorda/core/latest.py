"""A value that is kept for as long as the object that it was made for is in use."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["LatestOf"]

T = TypeVar("T")


class LatestOf(Generic[T]):
    """The latest value of a function of an object and of settings, freed with the object.

    Objects are the same where they are one object: an equal one is not looked for.
    """

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Any], Any, T] | None = None

    def __call__(self, owner: object, settings: object, make: Callable[[], T]) -> T:
        """Return the value for an object and settings, which must not hold the object."""
        known = self._known
        if known is not None and known[0]() is owner and known[1] == settings:
            return known[2]
        value = make()
        self._known = weakref.ref(owner, self._forget), settings, value
        return value

    def _forget(self, owner: weakref.ref[Any]) -> None:
        if self._known is not None and self._known[0] is owner:
            self._known = None
