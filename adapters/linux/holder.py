"""What holds a mirror of this machine's kernel: its executable, and the machine's settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import msgspec

from reference.description import Description

from ..candidate import CandidateError
from ..holder import Holder
from ..process import Child
from .keeper import FOLDER, Held, hold

__all__ = ["LEFT_ALONE", "LinuxHolder"]

LEFT_ALONE = "LASTWRITER_SETTINGS"
"""Environment variable: if it is `keep`, the machine's settings stay as they are."""

_ON_DEMAND = {"LASTWRITER_MERGE_ON_DEMAND": "1"}
"""Has the executable wake KSM when it waits for it, and put it to rest (`process_merge.c`)."""


class LinuxHolder(Holder):
    """A mirror with, for root, swap on zram, KSM and compaction for as long as it is held.

    `start` starts its executable, with more environment variables.  `CandidateError` if that or the
    settings cannot be had.
    """

    def __init__(self, start: Callable[[Mapping[str, str]], Child]) -> None:
        self._held: Held | None = None
        if os.geteuid() == 0 and os.environ.get(LEFT_ALONE) != "keep":
            self._held = hold()
        try:
            super().__init__(start(_ON_DEMAND if self._held and self._held.ksm else {}))
        except BaseException:
            self._release()
            raise

    def amend(self, description: Description) -> Description:
        """With a note on the machine's settings."""
        notes = (*description.notes, *self._notes())
        return msgspec.structs.replace(description, notes=notes)

    def end(self) -> None:
        """Kill the child, and put the settings back if nobody else needs them."""
        try:
            super().end()
        finally:
            self._release()

    def _release(self) -> None:
        if self._held is None:
            return
        try:
            self._held.release()
        except OSError as error:
            left = f"{FOLDER}/undo.json has what is left, and the next run begins with it"
            raise CandidateError(f"the machine's settings: {error}; {left}") from None

    def _notes(self) -> list[str]:
        if self._held is not None:
            return ["for the run: swap on zram, KSM, compaction", *self._held.problems]
        if os.geteuid() == 0:
            return [f"{LEFT_ALONE}=keep: swap, KSM and compaction are as they were"]
        return ["not root: swap, KSM and compaction are as they were"]
