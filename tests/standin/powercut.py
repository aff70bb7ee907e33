"""A machine that loses its power: what a program wrote to a folder is played back to any moment and torn there.

What a disk keeps is what was synced, and any part of what came after. Of a file that is not yet synced each sector of
512 bytes is written or not; files that were made or removed since the folder was last synced are there up to some point
of that order, as file systems with a journal have it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
SOURCE = Path(__file__).with_name("powercut.c")
LIBRARY_NAME = "libpowercut.so"


@dataclass(frozen=True)
class Change:
    """One call that has succeeded, as powercut.c records it; offset is the new length of a truncation."""

    what: str
    name: str
    offset: int = 0
    content: bytes = b""


@dataclass
class _File:
    """A file as the disk has it for sure, and what has been done to it since."""

    kept: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.kept, change)
        self.pending = []

    def torn(self, chance: random.Random) -> bytes:
        content = bytearray(self.kept)
        written = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))  # the share; all or nothing are likely ends too
        until = chance.choice((len(self.pending), chance.randint(0, len(self.pending))))
        for change in self.pending[:until]:
            for piece in _sectors(change):
                if chance.random() < written:
                    _apply(content, piece)
        return bytes(content)


def _sectors(change: Change) -> Iterator[Change]:
    if change.what != "write":
        yield change
        return
    start, end = change.offset, change.offset + len(change.content)
    while start < end:
        stop = min(end, start - start % SECTOR_BYTES + SECTOR_BYTES)
        yield Change("write", change.name, start, change.content[start - change.offset : stop - change.offset])
        start = stop


def _apply(content: bytearray, change: Change) -> None:
    if change.what == "truncate":
        del content[change.offset :]
        content.extend(bytes(change.offset - len(content)))
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(change.content)] = change.content


def changes(log: Path) -> list[Change]:
    """All that was recorded, in its order."""
    found = []
    content = log.read_bytes()
    at = 0
    while at < len(content):
        end = content.index(b"\n", at)
        what, offset, length, name = content[at:end].decode().split(" ", 3)
        at = end + 1 + int(length)
        found.append(Change(what, name, int(offset), content[end + 1 : at]))
    return found


class Disk:
    """Takes changes one after another, and says at any time what may be left of them."""

    def __init__(self) -> None:
        self._entries: dict[str, _File] = {}  # as the running program sees the folder
        self._kept_entries: dict[str, _File] = {}
        self._pending_entries: list[tuple[str, _File | None]] = []

    def take(self, change: Change) -> None:
        if change.what in ("create", "unlink"):
            made = _File() if change.what == "create" else None
            self._pending_entries.append((change.name, made))
            self._enter(self._entries, change.name, made)
        elif change.what == "sync" and change.name == ".":
            for name, made in self._pending_entries:
                self._enter(self._kept_entries, name, made)
            self._pending_entries = []
        elif change.what == "sync":
            self._entries[change.name].sync()
        else:
            self._entries[change.name].pending.append(change)

    def after_power_cut(self, chance: random.Random) -> dict[str, bytes]:
        """The files of the folder, as they may be found once the power is back."""
        entries = dict(self._kept_entries)
        for name, made in self._pending_entries[: chance.randint(0, len(self._pending_entries))]:
            self._enter(entries, name, made)
        return {name: file.torn(chance) for name, file in entries.items()}

    @staticmethod
    def _enter(entries: dict[str, _File], name: str, made: _File | None) -> None:
        if made is None:
            entries.pop(name, None)
        else:
            entries[name] = made


def written(files: dict[str, bytes], folder: Path) -> Path:
    """The files in a folder, which is emptied before."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def cuts(recorded: Sequence[Change], count: int, chance: random.Random) -> Iterator[tuple[int, dict[str, bytes]]]:
    """So many moments, in their order: how many changes were made before, and what is left of them."""
    moments = sorted(chance.choices(range(len(recorded) + 1), k=count))
    disk, done = Disk(), 0
    for moment in moments:
        for change in recorded[done:moment]:
            disk.take(change)
        done = moment
        yield moment, disk.after_power_cut(chance)
