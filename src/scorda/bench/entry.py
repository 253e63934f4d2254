"""One row of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Entry"]


@dataclass(frozen=True)
class Entry:
    """A method as tried on a set-up.

    Arguments:
        label: Name of the row, unique within its set-up.
        method: The method with its settings.
        members: Number of members.
    """

    label: str
    method: Any
    members: int
