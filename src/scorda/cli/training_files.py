"""The files of a training: its weights and, while it runs, a checkpoint beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorda.cli.settings import UserError
from scorda.core.files import read_tensors
from scorda.core.ownership import check_output
from scorda.diffusion.checkpoint import Checkpoint
from scorda.store.records import check_same

__all__ = ["TrainingFiles"]


@dataclass(frozen=True)
class TrainingFiles:
    """The files of one training.

    Arguments:
        out: File of the weights, whose header holds the record and whether they are complete.
        record: All that decides the weights, of JSON types.
        resume: Continue what was interrupted.
        overwrite: Replace what is there.
        trust_code: Do not compare the code of the user.
    """

    out: Path
    record: Mapping[str, Any]
    resume: bool
    overwrite: bool
    trust_code: bool = False

    @property
    def checkpoint(self) -> Checkpoint:
        """The state of the training while it runs."""
        return Checkpoint(self.out.with_suffix(".checkpoint"), self.record)

    @property
    def seem_complete(self) -> bool:
        """Whether all says that there is nothing to do, before the record is compared."""
        return self.resume and self.out.exists() and not self.checkpoint.exists()

    def check_free(self) -> None:
        """Check that the weights and the checkpoint may be written, before the data are read.

        Raises:
            ValueError: If something is there that Scorda did not write.
            UserError: If weights or a checkpoint are there, and the user did not say what then.
        """
        check_output(self.out, overwrite=True, make_parents=True)
        self.checkpoint.check_place(self.overwrite)
        taken = self.out.exists() or self.checkpoint.exists()
        if taken and not (self.resume or self.overwrite):
            raise UserError(
                f"{self.out} is already {'there' if self.out.exists() else 'begun'}: continue it "
                "with --resume and the settings of its start, replace it with --overwrite, or "
                "choose another name."
            )

    def complete(self) -> bool:
        """Return whether nothing is left to do; nothing is written.

        Raises:
            ValueError: As `check_free`; or if what is there is of another training.
            UserError: As `check_free`; or if it cannot be continued.
        """
        self.check_free()
        begun = self.checkpoint.exists()
        if self.overwrite or not (begun or self.out.exists()):
            return False
        if begun:
            self._check_same(self.checkpoint.read()[1]["record"])
            return False
        made = dict(read_tensors(self.out)[1].get("record") or {})
        if not made.pop("complete", False):
            raise UserError(
                f"{self.out} is no complete training of this command, and its checkpoint is gone: "
                "replace it with --overwrite, or choose another name."
            )
        self._check_same(made)
        return True

    def _check_same(self, before: Mapping[str, Any]) -> None:
        check_same(before, self.record, self.trust_code)
