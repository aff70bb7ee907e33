"""Run files into their database: which there are, and what becomes of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from tracker.errors import StoreError
from tracker.session.past import run_folder, whole
from tracker.settings import user_folder
from tracker.store.merging import Merged, merge

logger = logging.getLogger(__name__)


def run_files(db: str) -> list[Path]:
    """The run files of a database: those beside it, and those that other folders hold for any database."""
    beside, state = run_folder(db), user_folder("state")
    folders = [folder for folder in (beside, state and state / "runs") if folder is not None]
    found: list[Path] = []
    for folder in folders:
        try:
            found += sorted(folder.glob("*.db"))
        except OSError:  # closed to this user
            continue
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
    beside = run_folder(db)
    files = [] if beside is None else [file for file in run_files(db) if file.parent == beside]
    for file, outcome in fold(db, files):
        logger.debug("%s: %s", file, outcome)
