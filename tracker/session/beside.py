"""Where the files of runs lie that their database could not take."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tracker.settings import user_folder
from tracker.trust import is_planted

_LETTERS = 16


def run_folder(db: str) -> Path | None:
    """The folder beside a database for runs that it does not take; None: it is a server, or nobody's to trust.

    Where everybody may make a folder of that name, such as in /tmp, one that somebody else has made is not used.
    """
    if "://" in db:
        return None
    folder = Path(f"{db}.d")
    try:
        return None if is_planted(folder) else folder
    except (OSError, ValueError):  # it may be made yet
        return folder


def own_folder(db: str) -> Path | None:
    """The folder for run files of this database alone in the user's state folder; None: the user has no home."""
    state = user_folder("state")
    named = db if "://" in db else os.path.realpath(db)
    return None if state is None else state / "runs" / _digest(named)


def files_beside(db: str) -> list[Path]:
    """The run files of this database."""
    found: list[Path] = []
    for folder in (run_folder(db), own_folder(db)):
        try:
            found += [] if folder is None else sorted(folder.glob("*.db"))
        except OSError:  # closed to this user
            continue
    return found


def _digest(db: str) -> str:
    return hashlib.sha256(db.encode("utf-8", "surrogateescape")).hexdigest()[:_LETTERS]
