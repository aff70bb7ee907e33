"""Opening a database: creating, recognising and migrating it, and the rules of every SQLite connection.

A write transaction begins with BEGIN IMMEDIATE: one that reads first and then wants to write is refused at once when
another has written meanwhile, whatever its timeout (half of all transactions of 64 writers: measured). Nothing uses
mmap, readers open `mode=ro`. Connections last as long as their block, so no file handle stays behind.

**Which process checkpoints.** SQLite before 3.51.3 can damage a database when one connection restarts the WAL while
another is inside a second checkpoint (the WAL-reset fault, https://www.sqlite.org/wal.html#walresetbug), and nearly
every Python has such a SQLite. So no connection checkpoints by itself (`wal_autocheckpoint=0`, which would checkpoint
beside other writers). A writer that has just sealed checkpoints when the WAL has grown past WAL_LIMIT_BYTES, in the
TRUNCATE mode, which holds the lock of writers throughout: nobody can restart the WAL meanwhile. The last connection to
close checkpoints too, alone by an exclusive lock. Readers cannot checkpoint. So whoever seals does it, and no process
is elected: one that is may be killed or stopped while it holds the office, where a lock of SQLite's own goes with its
process; and the lock of writers is an election for each checkpoint. What 64 writers see of it: benchmarks/writers.py.

**Where there is no WAL.** It needs memory shared by all who have the file open, so none is used on a file system that
machines share, nor for a run file, which one process writes: their journal is a rollback journal.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, cast

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from tracker.errors import NotADatabaseError, SchemaTooNewError, StoreError
from tracker.store import tables
from tracker.store.places import file_system_of
from tracker.trust import is_planted

BUSY_TIMEOUT_S: Final = 5.0
RUN_TIMEOUT_S: Final = 0.6  # of a run that goes on: what waits longer may be lost, and stop() must not wait
CHECKPOINT_TIMEOUT_S: Final = 1.0  # the longest a reader may hold up other writers through a checkpoint
WAL_LIMIT_BYTES: Final = 4 * 2**20
_SCHEMA: Final = Path(__file__).with_name("schema.sql")  # made by scripts/make_schema_sql
FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700

_MARKS_OF_OURS: Final = {"runs", "segments", "hot_readings", "alembic_version"}
_POSTGRESQL_LOCK: Final = 0x74726163  # "trac": any number that others are unlikely to take
BEGIN: Final = "tracker begin"  # in Connection.info: how its transactions begin, if not as its engine's
_SMALLEST_PAGE_BYTES: Final = 512

Journal = Literal["wal", "delete"]  # as PRAGMA journal_mode has it; "delete" is a rollback journal
_RETRY_S: Final = 0.01
_MOST_LINKS: Final = 40  # on one path, as the kernel has it
_WITHOUT_LOCKS: Final = "vfs=unix-none"


@dataclass(frozen=True, slots=True)
class Schema:
    """A state of the schema and the way to it.

    Attributes:
        version: stamped in PRAGMA user_version; its four digits are the Alembic revision.
        migrations: folder of the Alembic scripts; None: ours, found when needed.
    """

    version: int = tables.SCHEMA_VERSION
    migrations: Path | None = None

    @property
    def revision(self) -> str:
        return f"{self.version:04d}"


CURRENT: Final = Schema()


@dataclass(frozen=True, slots=True)
class Database:
    """An opened database. engine.connect() makes a connection that ends with its block.

    Attributes:
        label: for messages: the path, or the URL without its password.
        path: the file; None for a server.
        version: of its schema; None: there is nothing in it, or no file at all (reading only).
    """

    engine: sa.Engine
    label: str
    path: Path | None
    version: int | None

    def wal_bytes(self) -> int:
        """Size of the write-ahead log; 0 where there is none."""
        try:
            return Path(f"{self.path}-wal").stat().st_size if self.path else 0
        except OSError:
            return 0

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def store_errors(label: str) -> Iterator[None]:
    """Turns what SQLAlchemy, SQLite and the file system raise within into StoreError."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as exc:
        cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
        raise _translated(label, cause) from exc


def _no_database(label: str) -> NotADatabaseError:
    return NotADatabaseError(f"{label}: is not a database; move it away or set TRACKER_DB to another path")


def _translated(label: str, cause: BaseException) -> StoreError:
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return _no_database(label)
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreError(f"{label}: is damaged ({cause}); keep a copy and try `sqlite3 FILE .recover`")
    if code == sqlite3.SQLITE_BUSY:
        return StoreError(f"{label}: another program keeps it locked")
    if code == sqlite3.SQLITE_FULL:
        return StoreError(f"{label}: the disk is full")
    if code == sqlite3.SQLITE_READONLY:
        return StoreError(f"{label}: cannot be written ({cause})")
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{label}: cannot be opened; is its folder there, and yours to write?")
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause).strip()
    return StoreError(f"{label}: {reason}")


def open_for_writing(
    db: str | Path, schema: Schema = CURRENT, *, journal: Journal | None = None, timeout_s: float = BUSY_TIMEOUT_S
) -> Database:
    """A database to write to. A file that is missing or empty is made one, an older one is migrated.

    Any number of processes may do this at once. A server's schema is left alone.

    Args:
        db: a path or an SQLAlchemy URL.
        schema: the one that this code writes.
        journal: of a file; None: a WAL where its file system allows one.
        timeout_s: how long a transaction waits for those of others.

    Raises:
        NotADatabaseError: the path is a folder, another kind of file, or another program's database.
        SchemaTooNewError: a newer tracker wrote it.
        StoreError: it cannot be opened or written, or is a server without the schema.
    """
    path, url = place_of(db)
    if path is None:
        return open_server(url, schema)
    label = str(path)
    with store_errors(label):
        _make_file(path)
        if journal is None:
            journal = "delete" if file_system_of(path).network else "wal"
        if journal == "delete":
            _leave_wal(path)
        engine = _file_engine(_uri(path, "mode=rw"), "BEGIN IMMEDIATE", timeout_s)
        with closing(_connect(_uri(path, "mode=rw"), timeout_s)) as raw:
            version = version_of_file(raw, label)
            refuse_newer(version, schema, label)
            is_current = version == schema.version and raw.execute("PRAGMA journal_mode").fetchone()[0] == journal
        if not is_current:
            _bring_up(engine, label, schema, journal)
    return Database(engine, label, path, schema.version)


def open_for_reading(db: str | Path, schema: Schema = CURRENT) -> Database:
    """A database to read only. A missing file is like an empty database; a newer one is read as far as it can be.

    An older file is migrated first, which needs the right to write it.

    Raises:
        NotADatabaseError: as for writing.
        StoreError: it cannot be opened, or is older and cannot be written.
    """
    path, url = place_of(db)
    if path is None:
        return open_server(url, schema, is_newer_welcome=True)
    label = str(path)
    with store_errors(label):
        if not path.exists():
            return Database(_file_engine(_uri(path, "mode=ro"), "BEGIN"), label, path, None)
        refuse_non_file(path)
        has_wal = Path(f"{path}-wal").exists()
        # Without the right to write the folder SQLite cannot make its -shm file, and needs none if nobody writes.
        is_still = not has_wal and not os.access(path.parent, os.W_OK)
        uri = _uri(path, "mode=ro&immutable=1" if is_still else "mode=ro")
        _roll_back(path)
        with closing(_connect(uri)) as raw:
            version = version_of_file(raw, label)
    if version is not None and version < schema.version:
        open_for_writing(path, schema).close()
        version = schema.version
    return Database(_file_engine(uri, "BEGIN"), label, path, version)


def open_without_locks(path: Path) -> Database:
    """A file to read only, past this process's own connections to it, whose descriptors the program has closed.

    SQLite shares locks between all connections of a process to a file, and would wait here for locks that it cannot
    take any more. Nothing keeps others from writing meanwhile; what they damage by it is noticed as an error.

    Raises:
        StoreError: it cannot be opened.
    """
    label = str(path)
    with store_errors(label):
        uri = _uri(path, f"mode=ro&{_WITHOUT_LOCKS}")
        with closing(_connect(uri)) as raw:
            version = version_of_file(raw, label)
    return Database(_file_engine(uri, "BEGIN"), label, path, version)


def upgrade(db: str | Path, schema: Schema = CURRENT) -> None:
    """Create or migrate the schema of a server database (or a file), one caller at a time.

    Raises:
        SchemaTooNewError: a newer tracker made it.
        StoreError: it cannot be reached or changed.
    """
    path, url = place_of(db)
    if path is not None:
        open_for_writing(path, schema).close()
        return
    engine, label = _server_engine(url)
    with store_errors(label), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRESQL_LOCK)))
        version = _version_of_server(connection, label)
        refuse_newer(version, schema, label)
        if version != schema.version:
            _run_migrations(connection, schema)


def checkpoint(database: Database, connection: sa.Connection) -> None:
    """Move a WAL that has grown large into the database, by a write connection outside a transaction."""
    if database.wal_bytes() <= WAL_LIMIT_BYTES:
        return
    raw = driver_connection(connection)
    (before_ms,) = raw.execute("PRAGMA busy_timeout").fetchone()
    raw.execute(f"PRAGMA busy_timeout={min(before_ms, round(CHECKPOINT_TIMEOUT_S * 1000)):d}")
    try:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        raw.execute(f"PRAGMA busy_timeout={before_ms:d}")


def driver_connection(connection: sa.Connection) -> sqlite3.Connection:
    """What lies under a connection to a file: for pragmas that SQLite refuses within a transaction."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)


def place_of(db: str | Path) -> tuple[Path | None, sa.URL]:
    """The file, and the URL where it is none.

    Raises:
        StoreError: the URL is none, or the path leads through a link that somebody else has planted.
    """
    if isinstance(db, Path) or "://" not in db:
        return _real(db), sa.URL.create("sqlite")
    try:
        url = sa.make_url(db)
    except (ArgumentError, ValueError):  # a port that is no number; their texts would repeat the URL, password and all
        raise StoreError("the database's URL cannot be read; it should look like postgresql://user@host/name") from None
    if url.get_backend_name() != "sqlite":
        return None, url
    if not url.database or url.database.startswith((":memory:", "file:")):
        raise StoreError(f"{url}: runs are kept in a file; give its path")
    return _real(url.database), url


def _real(path: str | Path) -> Path:
    """The path without links.

    Raises:
        StoreError: one of them is another user's, in a folder that all may write to, such as /tmp. The kernel refuses
            to follow such a link (sysctl fs.protected_symlinks), but not to tell where it leads.
    """
    try:
        real = os.path.realpath(path)
        if os.name == "posix" and real != str(Path.cwd() / path):  # else there is no link in it
            _refuse_planted_links(Path(path))
    except (OSError, ValueError) as exc:
        raise StoreError(f"{path}: {exc}") from exc
    return Path(real)


def _refuse_planted_links(path: Path) -> None:
    at, left = Path.cwd() if not path.is_absolute() else Path(path.anchor), [*reversed(path.parts)]
    links = 0
    while left:
        part = left.pop()
        following = at.parent if part == ".." else at / part  # an absolute part begins anew
        if not following.is_symlink():
            at = following
            continue
        links += 1
        if links > _MOST_LINKS:
            raise StoreError(f"{path}: leads through links without end")
        if is_planted(following):
            raise StoreError(f"{following}: is a link that another user has put there; it is not followed")
        left += reversed(following.readlink().parts)


def _uri(path: Path, query: str) -> str:
    return f"{path.as_uri()}?{query}"


def _connect(uri: str, timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    # isolation_level None: the module begins no transactions of its own. The writer's thread is not the opener's.
    connection = sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    try:
        # What stands in the schema of a stranger's file calls none of what a program may have registered.
        connection.execute("PRAGMA trusted_schema=OFF")
        if _WITHOUT_LOCKS in uri:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()  # the WAL's index in memory, not in -shm
        if "mode=rw" in uri:  # where a reader may not write, even these fail
            connection.execute("PRAGMA wal_autocheckpoint=0").fetchall()
            connection.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _file_engine(uri: str, begin: str, timeout_s: float = BUSY_TIMEOUT_S) -> sa.Engine:
    """An engine without a pool; kept, because it holds compiled statements: 15 ms of a second run's start."""
    return _engine_of_process(uri, begin, timeout_s, os.getpid())


@lru_cache(maxsize=8)
def _engine_of_process(uri: str, begin: str, timeout_s: float, pid: int) -> sa.Engine:  # noqa: ARG001 (a part of the key)
    # By process: another thread may have held a lock of the engine when this one was forked.
    def connect() -> sqlite3.Connection:
        return _connect(uri, timeout_s)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(connection.info.get(BEGIN, begin)))
    return engine


def refuse_non_file(path: Path) -> None:
    if path.is_dir():
        raise NotADatabaseError(f"{path}: is a folder; give the path of a file in it, such as {path / 'runs.db'}")
    if path.exists() and not path.is_file():
        raise NotADatabaseError(f"{path}: is not a file; set TRACKER_DB to another path")
    if path.exists() and 0 < path.stat().st_size < _SMALLEST_PAGE_BYTES:
        # SQLite takes such a file for an empty one, and would write over it.
        raise _no_database(str(path))


def _make_file(path: Path) -> None:
    """An empty file, private to the user, where there is none; an existing one keeps its mode."""
    refuse_non_file(path)
    missing = []
    folder = path.parent
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    with suppress(FileExistsError):
        # Closing a database's file would drop this process's locks on it; nobody can have this one open yet.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE))


def version_of_file(raw: sqlite3.Connection, label: str) -> int | None:
    """The schema's version; None: the database is empty.

    Raises:
        NotADatabaseError: it is another program's.
    """
    names = {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
    if not names:
        return None
    if not names >= _MARKS_OF_OURS:
        raise NotADatabaseError(
            f"{label}: is another program's database (it has {', '.join(sorted(names)[:3])} …); "
            "set TRACKER_DB to another path"
        )
    (version,) = raw.execute("PRAGMA user_version").fetchone()
    if version == 0:  # restored from an SQL dump, which holds no pragmas
        (version,) = raw.execute("SELECT max(version_num) FROM alembic_version").fetchone()
    return int(version)


def refuse_newer(version: int | None, schema: Schema, label: str) -> None:
    if version is not None and version > schema.version:
        raise SchemaTooNewError(
            f"{label}: a newer tracker wrote it, with schema {version}; this one writes schema {schema.version}. "
            "Upgrade this one (pip install -U gpu-energy-tracker) or set TRACKER_DB to another path; "
            "reading may still work"
        )


def _roll_back(path: Path) -> None:
    """Take back what a writer that was killed has left half written; readers must not, and would be refused."""
    try:
        is_left = Path(f"{path}-journal").stat().st_size > 0
    except OSError:
        return
    if is_left and os.access(path, os.W_OK):
        with closing(_connect(_uri(path, "mode=rw"))) as raw:
            raw.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _leave_wal(path: Path) -> None:
    """Give a file that was kept with a WAL a rollback journal, which it is refused while anybody has it open."""
    with closing(_connect(_uri(path, "mode=rw"))) as raw:
        raw.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()  # before the first look: no memory is shared then
        raw.execute("PRAGMA journal_mode=DELETE").fetchall()


def _bring_up(engine: sa.Engine, label: str, schema: Schema, journal: Journal) -> None:
    """Create or migrate a file, in one transaction that looks again first: others may be at it too."""
    with engine.connect() as connection:
        raw = driver_connection(connection)
        # Others that start now are at the same, which takes them a moment.
        raw.execute(f"PRAGMA busy_timeout={round(BUSY_TIMEOUT_S * 1000):d}")
        # Not faster by synchronous=OFF, though no data can be lost yet: a power cut within the making of a file would
        # leave a damaged one, which is refused for ever after (seen in test_power_loss).
        with connection.begin():
            version = version_of_file(raw, label)
            refuse_newer(version, schema, label)
            if version is None:
                _create(raw)
                raw.execute("INSERT INTO alembic_version (version_num) VALUES (?)", (schema.revision,))
            elif version < schema.version:
                _run_migrations(connection, schema)
            connection.exec_driver_sql(f"PRAGMA user_version={schema.version:d}")
        if journal == "wal":
            _switch_to_wal(raw)


def _create(raw: sqlite3.Connection) -> None:
    """Make the tables and views of an empty file, within a transaction.

    By ready statements: having SQLAlchemy word them from its tables took an eighth of a first run's start.
    """
    for statement in _SCHEMA.read_text(encoding="utf-8").split(";\n"):
        raw.execute(statement)


def _switch_to_wal(raw: sqlite3.Connection) -> None:
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            raw.execute("PRAGMA journal_mode=WAL").fetchall()
        except sqlite3.OperationalError as exc:
            # SQLite does not always wait here for others that are at the same switch.
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(_RETRY_S)
        else:
            return


def _server_engine(url: sa.URL) -> tuple[sa.Engine, str]:
    label = url.set(query={}).render_as_string(hide_password=True)  # a query may hold a password too
    try:
        return sa.create_engine(url, poolclass=NullPool, hide_parameters=True), label
    except ModuleNotFoundError as exc:
        raise StoreError(f"{label}: needs the package {exc.name}, which is not installed") from exc
    except SQLAlchemyError as exc:
        raise StoreError(f"{label}: no database of this kind is known") from exc


def open_server(url: sa.URL, schema: Schema, *, is_newer_welcome: bool = False) -> Database:
    engine, label = _server_engine(url)
    with store_errors(label), engine.connect() as connection:
        version = _version_of_server(connection, label)
    if not is_newer_welcome:
        refuse_newer(version, schema, label)
    if version is None or version < schema.version:
        state = "has no tables of the tracker" if version is None else f"has schema {version}, not {schema.version}"
        raise StoreError(f"{label}: {state}; run `tracker db upgrade` once")
    return Database(engine, label, None, version)


def _version_of_server(connection: sa.Connection, label: str) -> int | None:
    names = set(sa.inspect(connection).get_table_names())
    if not names:
        return None
    if not names >= _MARKS_OF_OURS:
        raise NotADatabaseError(f"{label}: holds another program's tables; give the tracker a database of its own")
    return int(connection.execute(sa.select(sa.func.max(tables.alembic_version.c.version_num))).scalar_one())


def _run_migrations(connection: sa.Connection, schema: Schema) -> None:
    # Imported here alone: it costs 0.3 s, and few runs meet an older database.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    folder = str(schema.migrations or _migrations_folder())
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, schema.revision)
    except CommandError as exc:
        raise StoreError(f"the migrations in {folder} do not lead to schema {schema.version}: {exc}") from exc


def _migrations_folder() -> Path:
    """tracker.migrations where the package is installed, the folder beside the package in a checkout."""
    spec = find_spec("tracker.migrations")
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0])
    return Path(__file__).resolve().parents[2] / "migrations"
