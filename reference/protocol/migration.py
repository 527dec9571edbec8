"""migrate_vma: family G, and what E2 asks of a driver that skips its own events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from reference.record import Entry, What
from reference.syncmodels import Sync

from .checker import Checker
from .state import State
from .violation import Breach, Profile

__all__ = ["Migration"]


@dataclass(slots=True)
class Move:
    """Pages between migrate_vma_setup and migrate_vma_finalize."""

    device: int
    actor: int
    frames: list[int]
    """By page, the frame that is locked; 0 if none is."""
    copies: set[tuple[int, int]] = field(default_factory=set)
    """Frames that were copied, each with where to."""
    targets: list[int] = field(default_factory=list)
    """By page, the copy that is in place; negative if it could not be put there."""


Place = tuple[int, int, int]
"""Actor, address space and first page of a migration."""


class Migration(Checker):
    """Copy while the pages are locked, map once they have moved."""

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.BEGIN: "begin",
        What.SETUP: "setup",
        What.COPY: "copy",
        What.PAGES: "pages",
        What.FINALIZE: "finalize",
        What.ACCESS: "access",
        What.DEVICE_MAP: "device_map",
        What.TO_RAM: "to_ram",
        What.FAIL: "fail",
    }

    def __init__(
        self, state: State, model: Sync, profile: Profile, exercised: Counter[str]
    ) -> None:
        super().__init__(state, model, profile, exercised)
        self._moves: dict[Place, Move] = {}
        self._failed: set[Place] = set()
        self._going_home: set[int] = set()
        """Actors whose CPU fault is on a page in device memory."""

    def begin(self, _index: int, entry: Entry) -> None:
        if self._failed:
            self._failed = {place for place in self._failed if place[0] != entry.actor}
        self._going_home.discard(entry.actor)

    def setup(self, _index: int, entry: Entry) -> None:
        device, space, first, answer, *frames = map(int, entry.arguments)
        place = entry.actor, space, first
        if answer:
            self._failed.add(place)
            self.count("G1")
            return
        self._failed.discard(place)
        self._moves[place] = Move(device, entry.actor, frames)
        self.count("G3", "G10")

    def _move(self, entry: Entry, what: str) -> Move:
        device, space, first = map(int, entry.arguments[:3])
        place = entry.actor, space, first
        move = self._moves.get(place)
        if move is None:
            rule = "G1" if place in self._failed else "G3"
            why = "has failed" if place in self._failed else "there was none"
            text = f"device {device} calls {what} from page {first} on"
            raise Breach(rule, f"{text}, whose migrate_vma_setup {why}")
        return move

    # Copies

    def copy(self, _index: int, entry: Entry) -> None:
        source, target = map(int, entry.arguments)
        for move in self._moves.values():
            if move.actor != entry.actor or source not in move.frames:
                continue
            mirror = self.state.mirror(move.device)
            way = self.ways_to(mirror, source)
            if way:
                text = f"device {move.device} copies frame {source}, which it still reaches"
                raise Breach("E2", f"{text} through {way}")
            move.copies.add((source, target))
            self.count("G7")

    def access(self, _index: int, entry: Entry) -> None:
        device, _table, slot, frame, write = map(int, entry.arguments)
        if not write:
            return
        for move in self._moves.values():
            if any(frame == source for source, _ in move.copies):
                text = f"device {device} writes page {slot} in frame {frame}"
                raise Breach("G3", f"{text}, which was copied and is not migrated yet")

    # Pages and finalize

    def pages(self, _index: int, entry: Entry) -> None:
        move = self._move(entry, "migrate_vma_pages")
        move.targets = [int(argument) for argument in entry.arguments[3:]]
        mirror = self.state.mirror(move.device)
        for frame, target in zip(move.frames, move.targets, strict=True):
            # A page that fills a hole may be faulted on as soon as it is there.
            early = target < 0 or (frame and target)
            way = self.ways_to(mirror, abs(target)) if early else ""
            if way:
                text = f"device {move.device} reaches the copy in frame {abs(target)} through {way}"
                raise Breach("G6", f"{text} before migrate_vma_pages")
            if not frame and target < 0:
                self.count("G5")
            if target:
                self.count("G6")

    def device_map(self, _index: int, entry: Entry) -> None:
        device, _table, slot, address, _writable = map(int, entry.arguments)
        frame = self.state.mirror(device).frame(address)
        for move in self._moves.values():
            if not frame:
                return
            if frame in move.frames:
                text = f"device {device} maps page {slot} to frame {frame}"
                raise Breach("G6", f"{text}, which is being migrated")
            if not move.targets and frame in {target for _, target in move.copies}:
                text = f"device {device} maps page {slot} to the copy in frame {frame}"
                raise Breach("G6", f"{text} before migrate_vma_pages")
            if -frame in move.targets:
                text = f"device {device} maps page {slot} to the copy in frame {frame}"
                raise Breach("G6", f"{text}, from which migrate_vma_pages took MIGRATE away")

    def finalize(self, _index: int, entry: Entry) -> None:
        move = self._move(entry, "migrate_vma_finalize")
        for source, target in zip(move.frames, move.targets, strict=False):
            if source and target > 0 and (source, target) not in move.copies:
                text = f"device {move.device} finalizes the migration of frame {source}"
                raise Breach("G7", f"{text} to {target}, to which it was not copied")
        _device, space, first = map(int, entry.arguments)
        del self._moves[entry.actor, space, first]

    # Home (G8)

    def to_ram(self, _index: int, entry: Entry) -> None:
        self._going_home.add(entry.actor)

    def fail(self, _index: int, entry: Entry) -> None:
        if entry.actor in self._going_home:
            self.count("G8")
