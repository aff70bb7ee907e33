"""Where a run is written: the database asked for, else a run file, else nowhere but in memory, each said once."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracker.errors import StoreError
from tracker.session.folding import fold_quietly
from tracker.session.past import reader_of, whole
from tracker.store.opening import open_for_writing
from tracker.store.writing import RunWriter

if TYPE_CHECKING:
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
            self.db, self.writer, self._database = place, writer, database
            break
        if first_error is not None:
            outcome = f"the run is kept in {self.db}" if self.db else "nothing of the run is kept after it"
            self._warn(f"target {self._wanted}", f"{first_error}; {outcome}")

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
