"""Checkpoints: files that a killed training resumes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scorda.core.files import check_finite_tensors, read_tensors, write_tensors
from scorda.core.ownership import check_output
from scorda.core.shapes import Tensor

__all__ = ["Checkpoint"]

KIND = "checkpoint"
ADVICE = "delete it, or use --overwrite, to train from the beginning"


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds the whole state of a training while it runs.

    Arguments:
        path: The file.
        record: All that decides the result beside the settings of the training, of JSON types.
            It is kept for the caller, who compares it.
    """

    path: Path
    record: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def at(cls, given: Checkpoint | str | Path | None) -> Checkpoint | None:
        """Return the checkpoint at a path, or the one that is given."""
        return cls(Path(given)) if isinstance(given, str | Path) else given

    def exists(self) -> bool:
        """Return whether the file is there."""
        return self.path.exists()

    def check_place(self, overwrite: bool = False) -> None:
        """Check that nothing is at the path but a checkpoint.

        Arguments:
            overwrite: Whether one that is damaged, but bears our mark, is to be replaced.

        Raises:
            ValueError: If something else is there, or a checkpoint that is damaged.
        """
        check_output(self.path, overwrite=True, make_parents=True)
        if self.exists() and not (overwrite and self._damaged()):
            self.read()

    def write(self, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
        """Write the state of a training.

        Raises:
            ValueError: If a number of it is not finite, or another file is there.
        """
        check_finite_tensors(self.path, tensors)
        real = check_output(self.path, overwrite=True)
        write_tensors(real, tensors, {"kind": KIND, "record": dict(self.record), **header})

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the header, with "record" in it.

        Raises:
            ValueError: If the file is damaged or no checkpoint.
        """
        tensors, header = read_tensors(self.path, ADVICE)
        if header.get("kind") != KIND:
            raise ValueError(
                f"{self.path} is no checkpoint of a training: rename it, or choose another name."
            )
        check_finite_tensors(self.path, tensors)
        return tensors, header

    def _damaged(self) -> bool:
        try:
            read_tensors(self.path)
        except ValueError:
            return True
        return False

    def remove(self) -> None:
        """Delete the file, if it is there."""
        self.path.unlink(missing_ok=True)
