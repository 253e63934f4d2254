"""Checkpoints: a unit of work as far as it has come, so that a kill costs a minute at most.

The cut of a store into units follows from sizes alone, since its bytes must not depend on a clock.
A unit may thus take hours. Its work so far is saved after a minute, and again after each minute;
or more seldom, where saving takes more than a twentieth of the time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scorda.core.files import read_tensors, write_tensors
from scorda.core.shapes import Tensor

__all__ = ["MINUTE", "Checkpoint"]

# Seconds of work that a kill may cost, and the share of time that saving may take.
MINUTE, SHARE = 60.0, 0.05


class Checkpoint:
    """The saved work of one unit.

    Arguments:
        path: File of the checkpoint.
        every: Seconds of work between two of them.
        before: Called with the states before they are saved, so that there is a run to resume.
    """

    def __init__(
        self, path: Path, every: float = MINUTE, before: Callable[[Tensor], None] | None = None
    ) -> None:
        self._path, self.every, self._before = path, every, before
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._last >= self.every

    def save(self, tensors: Mapping[str, Tensor], report: Any) -> None:
        """Save tensors, and a report of JSON types."""
        begin = time.monotonic()
        if self._before is not None:
            self._before(tensors["states"])
        # As text: the header itself must not hold numbers that are not finite.
        header = {"kind": "checkpoint", "report": json.dumps(report)}
        write_tensors(self._path, tensors, header)
        self._last = time.monotonic()
        self.every = max(self.every, (self._last - begin) / SHARE)

    def load(self) -> tuple[dict[str, Tensor], Any] | None:
        """Read what was saved; None if there is nothing, or if it is damaged."""
        try:
            tensors, header = read_tensors(self._path)
        except (FileNotFoundError, ValueError):
            return None
        return tensors, json.loads(header["report"])
