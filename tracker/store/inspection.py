"""What can be told of a database without making, migrating or writing anything: no file is left beside it either."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from tracker.errors import StoreError
from tracker.store.opening import CURRENT, Schema, open_server, place_of, refuse_newer, refuse_non_file, store_errors
from tracker.store.opening import version_of_file as version_within
from tracker.store.places import file_system_of

LOCK_LOOK_S: Final = 1.0  # a writer of ours holds the lock for some ms in each second
_LOOKS: Final = 10
_READ_TIMEOUT_S: Final = 1.0

# Bytes that SQLite locks while it writes: PENDING and RESERVED of the file (fileformat2.html, 1.3.1; os.h), and
# WAL_WRITE_LOCK of its -shm file (walformat.html, 2.3.1).
_FILE_LOCK: Final = (0x40000000, 2)
_WAL_LOCK: Final = (120, 1)
_FLOCK: Final = "hhqqi4x"  # struct flock on 64-bit Linux: type, whence, start, length, pid


@dataclass(frozen=True, slots=True)
class Inspection:
    """A database as it was found.

    Attributes:
        label: the path, or the URL without its password.
        path: the file; None for a server, and where the place cannot be understood.
        exists: None: not known.
        version: of its schema; None: there is none yet, or it cannot be told.
        size_bytes: with its write-ahead log; None: no file, or not known.
        free_bytes: left on its file system; None: not known.
        network: type of the network file system that it is on; "": none.
        has_shared_locks: what is locked there is so for other machines too.
        trouble: why runs cannot be written there, with what to do; "": they can. Never in a server's own words, which
            name hosts and people.
    """

    label: str
    path: Path | None
    exists: bool | None
    version: int | None = None
    size_bytes: int | None = None
    free_bytes: int | None = None
    network: str = ""
    has_shared_locks: bool = True
    trouble: str = ""


def inspect(db: str | Path, schema: Schema = CURRENT, *, look_s: float = LOCK_LOOK_S) -> Inspection:
    """Look at a database.

    Args:
        db: a path or an SQLAlchemy URL.
        schema: the one that this code writes.
        look_s: one that is locked is looked at again for so long.
    """
    try:
        path, url = place_of(db)
    except StoreError as exc:
        return Inspection(f"{str(db).partition('://')[0]}://", None, None, trouble=str(exc))
    return _of_server(url, schema) if path is None else _of_file(path, schema, look_s)


def _of_server(url: sa.URL, schema: Schema) -> Inspection:
    label = url.set(query={}).render_as_string(hide_password=True)
    try:
        database = open_server(url, schema)
    except StoreError as exc:
        if isinstance(exc.__cause__, DBAPIError):
            trouble = "the server does not take the connection; `tracker db info` shows its words"
        else:
            trouble = str(exc).removeprefix(f"{label}: ")
        return Inspection(label, None, None, trouble=trouble)
    return Inspection(label, None, True, database.version)


def _of_file(path: Path, schema: Schema, look_s: float) -> Inspection:
    exists = version = size_bytes = None
    trouble = ""
    try:
        with store_errors(str(path)):
            refuse_non_file(path)
            exists = path.exists()
            if exists:
                size_bytes = path.stat().st_size + _size_bytes(_beside(path, "-wal"))
            if size_bytes:
                trouble = _lock_trouble(path, look_s)
                version = _version(path, schema, is_locked=bool(trouble))
        trouble = trouble or _write_trouble(path)
    except StoreError as exc:
        trouble = trouble or str(exc)
    there = file_system_of(path)
    return Inspection(
        str(path),
        path,
        exists,
        version,
        size_bytes,
        _free_bytes(path),
        network=there.network,
        has_shared_locks=there.has_shared_locks,
        trouble=trouble,
    )


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _version(path: Path, schema: Schema, *, is_locked: bool) -> int | None:
    # A reader makes the -wal and -shm files that it does not find, and leaves them. Where one is missing nobody has the
    # database open in WAL mode, so the file can be read as it stands; not while it is being changed.
    is_in_use = _beside(path, "-wal").exists() and _beside(path, "-shm").exists()
    if is_locked and not is_in_use:
        return None
    uri = f"{path.as_uri()}?mode=ro{'' if is_in_use else '&immutable=1'}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_READ_TIMEOUT_S)) as raw:
        version = version_within(raw, str(path))
    refuse_newer(version, schema, str(path))
    return version


def _write_trouble(path: Path) -> str:
    folder = _nearest_folder(path)
    for place in (path, folder):
        if os.path.lexists(place) and not os.access(place, os.W_OK):
            return f"{place}: may not be written by you; set TRACKER_DB to another path"
    return ""


def _lock_trouble(path: Path, look_s: float) -> str:
    """What keeps it locked, where that is so at every look; "": nothing, or it cannot be told here."""
    for look in range(_LOOKS):
        if look:
            time.sleep(look_s / _LOOKS)
        asked = (_holder(path, *_FILE_LOCK), _holder(_beside(path, "-shm"), *_WAL_LOCK))
        holders = [holder for holder in asked if holder is not None]
        if not holders:
            return ""
    by = f"process {holders[0]}" if holders[0] > 0 else "a process of another machine or container"
    return f"{path}: {by} keeps it locked; runs go to run files until it lets go"


def _holder(path: Path, start: int, length: int) -> int | None:
    """The process that holds a lock on these bytes; None: none, or not known; below 1: one that has no number here.

    Asking takes no lock. But closing the file drops those of this very process, so it must have no connection open.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    import fcntl

    ask = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, ask)
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(descriptor)
    kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
    return None if kind == fcntl.F_UNLCK else int(pid)


def _free_bytes(path: Path) -> int | None:
    try:
        return shutil.disk_usage(_nearest_folder(path)).free
    except OSError:
        return None


def _nearest_folder(path: Path) -> Path:
    """The folder in which the file, or the folders to it, would be made."""
    folder = path.parent
    while not os.path.exists(folder):  # noqa: PTH110 (Path.exists raises where looking is not allowed)
        folder = folder.parent
    return folder
