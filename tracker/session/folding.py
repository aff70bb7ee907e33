"""Run files into their database: which there are, and what becomes of them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from tracker.errors import StoreError
from tracker.session.beside import files_beside
from tracker.session.past import whole
from tracker.settings import user_folder
from tracker.store.merging import Merged, merge

logger = logging.getLogger(__name__)


def run_files(db: str) -> list[Path]:
    """The run files of a database, and those that older trackers have left in one folder for any database."""
    found, state = files_beside(db), user_folder("state")
    with contextlib.suppress(OSError):  # closed to this user
        found += [] if state is None else sorted((state / "runs").glob("*.db"))
    return found


def fold(db: str, files: list[Path]) -> Iterator[tuple[Path, Merged | StoreError]]:
    """Fold files into a database one after the other; a file that is wholly there is removed.

    One that cannot be read stays, with the reason.
    """
    for file in files:
        try:
            merged = merge(db, file, whole)
        except StoreError as exc:
            yield file, exc
            continue
        if not merged.kept:
            for leftover in (file, *(Path(f"{file}{end}") for end in ("-journal", "-wal", "-shm"))):
                leftover.unlink(missing_ok=True)
        yield file, merged


def fold_quietly(db: str) -> None:
    """For a run's own thread: fold what lies beside the database; trouble is for `tracker db merge` to tell."""
    if "://" in db:
        return
    for file, outcome in fold(db, files_beside(db)):
        logger.debug("%s: %s", file, outcome)
