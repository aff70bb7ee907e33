"""Where a run is written: the database asked for, else a run file, else nowhere but in memory, each said once."""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from tracker.errors import StoreError
from tracker.machine import OwnDescriptor, descriptors_of, identity_of
from tracker.records import unix_us_of
from tracker.session.beside import own_folder, run_folder
from tracker.session.folding import fold, fold_quietly
from tracker.session.past import reader_of, whole
from tracker.store.merging import copy_run
from tracker.store.opening import (
    BUSY_TIMEOUT_S,
    RUN_TIMEOUT_S,
    open_for_reading,
    open_for_writing,
    open_without_locks,
    place_of,
    store_errors,
)
from tracker.store.overlaps import overlapping_runs
from tracker.store.places import FileSystem, file_system_of
from tracker.store.rows import storable
from tracker.store.writing import RunWriter

if TYPE_CHECKING:
    import sqlalchemy as sa

    from tracker.records import ClockPair, Mark, Note, Run, Samples, Segment, Span
    from tracker.store.opening import Database, Journal
    from tracker.store.reading import RunReader

Stored = TypeVar("Stored")

logger = logging.getLogger(__name__)


_BESIDE: Final = ("-wal", "-shm")  # files that SQLite keeps beside a database


class StoredSource:
    """Fetches what a Run does not carry from the database it is in.

    Args:
        db: where it was written.
        folded_into: where it is once that file has gone.
    """

    def __init__(self, db: str, folded_into: str) -> None:
        self._db = db
        self._folded_into = folded_into

    def samples(self, run_id: str) -> Sequence[Samples]:
        return self._read(lambda reader: reader.samples(run_id))

    def spans(self, run_id: str) -> Sequence[Span]:
        return self._read(lambda reader: reader.spans(run_id))

    def marks(self, run_id: str) -> Sequence[Mark]:
        return self._read(lambda reader: reader.marks(run_id))

    def notes(self, run_id: str) -> Sequence[Note]:
        return self._read(lambda reader: reader.notes(run_id))

    def _read(self, read: Callable[[RunReader], Stored]) -> Stored:
        if self._db == self._folded_into:
            return read(reader_of(self._db))
        if Path(self._db).exists():
            found = read(reader_of(self._db))
            if Path(self._db).exists():  # else it went meanwhile, and what was found may be nothing
                return found
        return read(reader_of(self._folded_into))


def _is_something_else(path: Path) -> bool:
    """Whether there is something that can be no database, such as a device: nothing of ours belongs beside it."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:
        return False


def _remove(file: Path) -> None:
    """Take away what an attempt has left that came to nothing, and the folder if it was made for it."""
    for path in (file, *(Path(f"{file}{end}") for end in ("-journal", *_BESIDE))):
        with contextlib.suppress(OSError):
            path.unlink()
    with contextlib.suppress(OSError):
        file.parent.rmdir()  # refused where anything is in it


class Target:
    """Opens the first place that takes the run. Used by the writer's thread alone.

    On a file system that several machines share, no database can take a commit a second from each: the run goes to a
    file of its own beside it, and from there into the database when it has ended.

    Attributes:
        db: where the run is written, as open_for_reading takes it; None: nowhere.
        wanted: the database asked for.
        writer: writes to db; None: nowhere.
        file_system: of the database asked for, once the run has begun.
    """

    def __init__(self, db: str, warn: Callable[[str, str], None], *, is_shared: bool = False) -> None:
        self.db: str | None = None
        self.wanted = db
        self.writer: RunWriter | None = None
        self.file_system = FileSystem("", True)
        self._warn = warn
        self._begun_beside: set[str] = set()  # beginnings of the names of run files that were there before
        # The processes of a run belong into one place: they have more patience with each other.
        self._timeout_s = BUSY_TIMEOUT_S if is_shared else RUN_TIMEOUT_S
        self._left: set[str] = set()  # places that have taken nothing any more: the run does not return to them
        self._temporary: Path | None = None  # a private folder, the last resort
        self._has_folded = False
        self._database: Database | None = None
        self._file: tuple[str, tuple[int, int] | None] | None = None  # written to, and which it was when opened
        self._descriptors: Sequence[OwnDescriptor] = ()  # of the writer's connection

    def begin(self, run: Run, segment: Segment, argv: Sequence[str] | None) -> None:
        """Put the run on record as running."""
        first_error: StoreError | None = None
        self._look_around()
        for place in self._places(run.id, segment.host):
            try:
                database = self._open(place)
                writer = RunWriter(database, whole)
                writer.begin(run, segment, argv)
            except StoreError as exc:
                first_error = first_error or exc
                continue
            self._take(place, database, writer)
            break
        if first_error is not None:
            outcome = (
                f"the run is kept in {self.db}" if self.db else "no other place takes the run, and it is tried again"
            )
            self._warn(f"target {self.wanted}", f"{first_error}; {outcome}")
        elif self.file_system.network and not self.file_system.has_shared_locks:
            told = f"{self.wanted}: is on {self.file_system.network}, where a lock may not hold on other machines"
            self._warn(
                f"target {self.wanted}", f"{told}; the run is kept in {self.db} until `tracker db merge` folds it in"
            )
        elif self.file_system.network:
            logger.info("tracker: on %s, so the run is kept in %s until its end", self.file_system.network, self.db)

    def _look_around(self) -> None:
        """Learn what there is to know of the place asked for."""
        try:
            path, _ = place_of(self.wanted)
        except StoreError:
            return
        if path is not None:
            self.file_system = file_system_of(path)
        for file in self._files_beside() if self.file_system.network else ():
            parts = file.name.split(".")  # RUN.HOST.db, and dots may be in either
            self._begun_beside.update(".".join(parts[:count]) for count in range(1, len(parts)))

    def _files_beside(self, pattern: str = "*.db") -> list[Path]:
        folder = run_folder(self.wanted)
        try:
            return [] if folder is None else list(folder.glob(pattern))
        except OSError:  # closed to this user
            return []

    def _open(self, place: str) -> Database:
        journal: Journal | None = None if place == self.wanted else "delete"
        return open_for_writing(place, journal=journal, timeout_s=self._timeout_s)

    def check(self) -> None:
        """See that the file written to is still the one that others find.

        Raises:
            StoreError: it was removed or replaced: what is written there, nobody reads.
        """
        if self.is_gone:
            raise StoreError(f"{self.db}: was removed or replaced while the run went on")
        if not self._has_descriptors:
            raise StoreError(f"{self.db}: was closed by the program")

    @property
    def _has_descriptors(self) -> bool:
        """Whether what the connection reads and writes is still the database, and not some file of the program's."""
        return all(descriptor.is_ours for descriptor in self._descriptors)

    @property
    def is_gone(self) -> bool:
        if self._file is None:
            return False
        path, opened = self._file
        return opened is None or identity_of(path) != opened

    def move(self, run_id: str, host: str) -> bool:
        """Go on elsewhere with a run that its place takes no longer, all of it; false where no place takes it."""
        if self.writer is None:
            return False
        # Not even where the file has gone: a new one of that name would share the log that the rows are in.
        self._left |= {self.wanted, str(self.db)}
        for place in self._places(run_id, host):
            if place in self._left:
                continue
            is_new = "://" not in place and not Path(place).exists()
            try:
                database = self._open(place)
                with self._source() as given:
                    copy_run(given, database, run_id)
            except StoreError:
                if is_new:
                    _remove(Path(place))
                continue
            writer = self.writer.moved_to(database)
            self._close_writer()
            self._take(place, database, writer)
            return True
        return False

    @contextlib.contextmanager
    def _source(self) -> Iterator[sa.Connection]:
        """What is written so far. A reader gets by a lock, and the writer's own connection by a file without a name."""
        assert self.writer is not None
        assert self.db is not None
        if self.is_gone and not self._has_descriptors:
            raise StoreError(f"{self.db}: was removed, and closed by the program: nothing of it can be read")
        if self.is_gone:
            with self.writer.as_it_is() as connection:
                yield connection
        else:
            is_closed = self._file is not None and not self._has_descriptors
            database = open_without_locks(Path(self.db)) if is_closed else open_for_reading(self.db)
            with store_errors(database.label), database.engine.connect() as connection:
                yield connection

    def _close_writer(self) -> None:
        if self.writer is None:
            return
        if not self._has_descriptors:
            self.writer.abandon()
        with contextlib.suppress(StoreError):
            self.writer.close()

    def _take(self, place: str, database: Database, writer: RunWriter) -> None:
        self.db, self.writer, self._database = place, writer, database
        self._file, self._descriptors = None, []
        if database.path is not None:
            identity = identity_of(database.path)
            self._descriptors = descriptors_of([database.path, *(Path(f"{database.path}{end}") for end in _BESIDE)])
            # It may have been replaced since it was opened.
            is_open = not self._descriptors or any(one.identity == identity for one in self._descriptors)
            self._file = str(database.path), identity if is_open else None

    def fold(self) -> None:
        """Take in what earlier runs could not write here; once, as it may take a while."""
        if not self._has_folded and (self.db == self.wanted or self.is_folded_at_end):
            self._has_folded = True
            fold_quietly(self.wanted)

    @property
    def is_folded_at_end(self) -> bool:
        """Whether the run, once it has ended, is to be added to the database asked for."""
        is_beside = self.db is not None and self.db != self.wanted
        return is_beside and bool(self.file_system.network) and self.file_system.has_shared_locks

    def fold_own(self) -> None:
        """Add the run, which has ended and been closed, to the database asked for."""
        if self.db is None or not self.is_folded_at_end:
            return
        for file, outcome in fold(self.wanted, [Path(self.db)]):
            if isinstance(outcome, StoreError):
                self._warn(
                    f"fold {self.wanted}", f"{outcome}; the run is kept in {file}: `tracker db merge` folds it in"
                )

    def count_segments(self, run_id: str) -> int | None:
        """How many processes have been in the run, as far as can be seen; None: not known."""
        if self.writer is None:
            return None
        try:
            seen = self.writer.count_segments()
            if not self.file_system.network:
                return seen
            places = [Path(self.wanted), *self._files_beside(f"{run_id}.*.db")]
            found = {
                (segment.host, segment.boot_id, segment.pid_namespace, segment.pid, segment.pid_start)
                for place in places
                if place.exists()
                for segment in reader_of(place).segments(run_id)
            }
        except (StoreError, OSError):
            return None
        return max(seen, len(found))

    def overlapping_runs(self, run: Run, now: ClockPair, host: str) -> list[str]:
        """Ids of other runs that a GPU of this one was charged to meanwhile."""
        if self.writer is None:
            return []
        found = self.writer.overlapping_runs(run, now)
        keys = [storable(device.key) for device in run.devices if device.kind == "gpu"]
        if not self.file_system.network or not keys or run.started_at is None:
            return found
        between = unix_us_of(run.started_at), now.unix_us
        for place in (Path(self.wanted), *self._files_beside()):
            if str(place) != self.db and place.exists():
                with contextlib.suppress(StoreError), reader_of(place).snapshot() as connection:
                    found += overlapping_runs(
                        connection, run.id, run.parent_id, keys, *between, self._begun_beside, host
                    )
        return list(dict.fromkeys(found))

    def close(self) -> None:
        """Let go of the place."""
        self._close_writer()
        if self._database is not None:
            self._database.close()
        self.writer = self._database = None

    def _places(self, run_id: str, host: str) -> Iterator[str]:
        if not self.file_system.network:
            yield self.wanted
        name = f"{run_id}.{re.sub(r'[^A-Za-z0-9._-]', '_', host)}.db"
        beside, own = run_folder(self.wanted), own_folder(self.wanted)
        if beside is not None and not _is_something_else(Path(self.wanted)):
            yield str(beside / name)
        if own is not None:
            yield str(own / name)
            yield str(own / f"again-{name}")  # for a run that has to leave a file there
        try:
            if self._temporary is None or not self._temporary.is_dir():
                self._temporary = Path(tempfile.mkdtemp(prefix="tracker-"))
            yield str(self._temporary / name)
        except OSError:
            return

    def forget_after_fork(self) -> None:
        """In a forked child: let go of the connection without closing it."""
        if self.writer is not None:
            self.writer.forget_after_fork()
        self.writer = None
