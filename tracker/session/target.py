"""Where a run is written: the database asked for, else a run file, else nowhere but in memory, each said once."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracker.errors import StoreError
from tracker.session.folding import fold_quietly
from tracker.session.past import reader_of, whole
from tracker.store.merging import copy_run
from tracker.store.opening import open_for_reading, open_for_writing, store_errors
from tracker.store.writing import RunWriter

if TYPE_CHECKING:
    import sqlalchemy as sa

    from tracker.records import Mark, Note, Run, Samples, Segment, Span
    from tracker.store.opening import Database


class StoredSource:
    """Fetches what a Run does not carry from the database it is in."""

    def __init__(self, db: str) -> None:
        self._db = db

    def samples(self, run_id: str) -> Sequence[Samples]:
        return reader_of(self._db).samples(run_id)

    def spans(self, run_id: str) -> Sequence[Span]:
        return reader_of(self._db).spans(run_id)

    def marks(self, run_id: str) -> Sequence[Mark]:
        return reader_of(self._db).marks(run_id)

    def notes(self, run_id: str) -> Sequence[Note]:
        return reader_of(self._db).notes(run_id)


def _is_something_else(path: Path) -> bool:
    """Whether there is something that can be no database, such as a device: nothing of ours belongs beside it."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:
        return False


def _identity(path: str) -> tuple[int, int] | None:
    """Which file lies at a path; None: none."""
    try:
        found = os.stat(path)  # noqa: PTH116 (asked each second: a Path takes twice as long)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remove(file: Path) -> None:
    """Take away what an attempt has left that came to nothing, and the folder if it was made for it."""
    for path in (file, *(Path(f"{file}{end}") for end in ("-journal", "-wal", "-shm"))):
        with contextlib.suppress(OSError):
            path.unlink()
    with contextlib.suppress(OSError):
        file.parent.rmdir()  # refused where anything is in it


class Target:
    """Opens the first place that takes the run. Used by the writer's thread alone.

    Attributes:
        db: where the run is written, as open_for_reading takes it; None: nowhere.
        writer: writes there; None: nowhere.
    """

    def __init__(self, db: str, warn: Callable[[str, str], None]) -> None:
        self.db: str | None = None
        self.writer: RunWriter | None = None
        self._wanted = db
        self._warn = warn
        self._has_folded = False
        self._database: Database | None = None
        self._file: tuple[str, tuple[int, int] | None] | None = None  # written to, and which it was when opened

    def begin(self, run: Run, segment: Segment, argv: Sequence[str] | None) -> None:
        """Put the run on record as running."""
        first_error: StoreError | None = None
        for place in self._places(run.id, segment.host):
            try:
                database = open_for_writing(place)
                writer = RunWriter(database, whole)
                writer.begin(run, segment, argv)
            except StoreError as exc:
                first_error = first_error or exc
                continue
            self._take(place, database, writer)
            break
        if first_error is not None:
            outcome = f"the run is kept in {self.db}" if self.db else "nothing of the run is kept after it"
            self._warn(f"target {self._wanted}", f"{first_error}; {outcome}")

    def check(self) -> None:
        """See that the file written to is still the one that others find.

        Raises:
            StoreError: it was removed or replaced: what is written there, nobody reads.
        """
        if self._file is not None and _identity(self._file[0]) != self._file[1]:
            raise StoreError(f"{self._file[0]}: was removed or replaced while the run went on")

    @property
    def is_gone(self) -> bool:
        return self._file is not None and _identity(self._file[0]) != self._file[1]

    def move(self, run_id: str, host: str) -> bool:
        """Go on elsewhere with a run that its place takes no longer, all of it; false where no place takes it."""
        if self.writer is None:
            return False
        for place in self._places(run_id, host):
            # Not even where the file has gone: a new one of that name would share the log that the rows are in.
            if place in (self.db, self._wanted):
                continue
            is_new = "://" not in place and not Path(place).exists()
            try:
                database = open_for_writing(place)
                with self._source() as given:
                    copy_run(given, database, run_id)
            except StoreError:
                if is_new:
                    _remove(Path(place))
                continue
            writer = self.writer.moved_to(database)
            with contextlib.suppress(StoreError):
                self.writer.close()
            self._take(place, database, writer)
            return True
        return False

    @contextlib.contextmanager
    def _source(self) -> Iterator[sa.Connection]:
        """What is written so far. A reader gets by a lock, and the writer's own connection by a file without a name."""
        assert self.writer is not None
        assert self.db is not None
        if self.is_gone:
            with self.writer.as_it_is() as connection:
                yield connection
        else:
            database = open_for_reading(self.db)
            with store_errors(database.label), database.engine.connect() as connection:
                yield connection

    def _take(self, place: str, database: Database, writer: RunWriter) -> None:
        self.db, self.writer, self._database = place, writer, database
        self._file = None if database.path is None else (str(database.path), _identity(str(database.path)))

    def fold(self) -> None:
        """Take in what earlier runs could not write here; once, as it may take a while."""
        if self.db == self._wanted and not self._has_folded:
            self._has_folded = True
            fold_quietly(self._wanted)

    def close(self) -> None:
        """Let go of the place."""
        if self.writer is not None:
            self.writer.close()
        if self._database is not None:
            self._database.close()
        self.writer = self._database = None

    def _places(self, run_id: str, host: str) -> Iterator[str]:
        import platformdirs

        yield self._wanted
        name = f"{run_id}.{re.sub(r'[^A-Za-z0-9._-]', '_', host)}.db"
        if "://" not in self._wanted and not _is_something_else(Path(self._wanted)):
            yield str(Path(f"{self._wanted}.d") / name)
        yield str(platformdirs.user_state_path("tracker", appauthor=False) / "runs" / name)
        try:
            yield str(Path(tempfile.mkdtemp(prefix="tracker-")) / name)
        except OSError:
            return

    def forget_after_fork(self) -> None:
        """In a forked child: let go of the connection without closing it."""
        if self.writer is not None:
            self.writer.forget_after_fork()
        self.writer = None
