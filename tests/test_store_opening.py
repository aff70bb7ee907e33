"""Creating, recognising and migrating databases."""

from __future__ import annotations

import re
import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest
import stored_runs
from sqlalchemy import create_engine, text
from stored_runs import ROOT, a_full_run, as_stranger, python, store_run

from tracker.errors import NotADatabaseError, SchemaTooNewError, StoreError
from tracker.store import opening
from tracker.store.opening import Schema, open_for_reading, open_for_writing, upgrade
from tracker.store.reading import RunReader
from tracker.store.tables import SCHEMA_VERSION, metadata

PRESENT = (SCHEMA_VERSION, f"{SCHEMA_VERSION:04d}")  # version in PRAGMA user_version, Alembic's revision
NEXT = (SCHEMA_VERSION + 1, f"{SCHEMA_VERSION + 1:04d}")
NEXT_MIGRATION = f"""
import sqlalchemy as sa
from alembic import op

revision = "{NEXT[1]}"
down_revision = "{PRESENT[1]}"


def upgrade():
    op.add_column("runs", sa.Column("water_l", sa.Float))


def downgrade():
    op.drop_column("runs", "water_l")
"""


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def next_schema(tmp_path: Path) -> Schema:
    """The schema of a later tracker: one column more."""
    folder = tmp_path / "later migrations, 100 %"
    shutil.copytree(ROOT / "migrations", folder)
    (folder / "versions" / f"{NEXT[1]}_water.py").write_text(NEXT_MIGRATION)
    return Schema(SCHEMA_VERSION + 1, folder)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def described(path: Path) -> dict[str, object]:
    """Everything about a schema that a query could notice, without the order of columns in tables."""
    with sqlite3.connect(path) as connection:
        out: dict[str, object] = {}
        for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
            if kind == "view":
                out[f"view {name}"] = " ".join(sql.split())
            if kind == "table":
                columns = connection.execute(f"PRAGMA table_xinfo('{name}')").fetchall()
                keys = connection.execute(f"PRAGMA foreign_key_list('{name}')").fetchall()
                out[f"table {name}"] = (
                    sorted(column[1:] for column in columns),
                    sorted(key[2:] for key in keys),
                    sorted(re.findall(r"CONSTRAINT (\S+)", sql)),
                    "WITHOUT ROWID" in sql,
                )
            if kind == "index":
                columns = connection.execute(f"PRAGMA index_xinfo('{name}')").fetchall()
                out[f"index {name}"] = [(column[2:]) for column in columns]
    connection.close()
    return out


def version_of(path: Path) -> tuple[int, str]:
    connection = sqlite3.connect(path)
    stamps = (
        connection.execute("PRAGMA user_version").fetchone()[0],
        connection.execute("SELECT version_num FROM alembic_version").fetchone()[0],
    )
    connection.close()
    return stamps


def migrated_from_nothing(path: Path) -> None:
    path.touch()
    engine = opening._file_engine(f"{path.as_uri()}?mode=rw", "BEGIN IMMEDIATE")
    with engine.begin() as connection:
        opening._run_migrations(connection, opening.CURRENT)


def test_a_new_database_equals_one_made_by_all_migrations(db, tmp_path):
    migrated = tmp_path / "migrated.db"

    open_for_writing(db).close()
    migrated_from_nothing(migrated)

    assert described(db) == described(migrated)
    assert version_of(db)[1] == version_of(migrated)[1] == f"{SCHEMA_VERSION:04d}"


def test_a_new_database_equals_the_tables(db, tmp_path):
    by_tables = tmp_path / "tables.db"
    engine = create_engine(f"sqlite:///{by_tables}")

    open_for_writing(db).close()
    metadata.create_all(engine)
    engine.dispose()

    assert described(db) == described(by_tables), "scripts/make_schema_sql has not been run"


def test_a_new_file_and_the_folders_made_for_it_are_private(tmp_path):
    db = tmp_path / "a" / "b" / "runs.db"
    before = mode_of(tmp_path)

    open_for_writing(db).close()

    assert mode_of(db) == 0o600
    assert mode_of(db.parent) == mode_of(db.parent.parent) == 0o700
    assert mode_of(tmp_path) == before


def test_an_existing_file_keeps_its_mode_and_an_empty_one_becomes_a_database(db):
    db.touch()
    db.chmod(0o660)

    open_for_writing(db).close()

    assert mode_of(db) == 0o660
    assert version_of(db)[0] == SCHEMA_VERSION


def test_a_second_opening_changes_nothing_and_needs_no_alembic(db):
    open_for_writing(db).close()
    before = db.read_bytes()

    child = python(
        "import sys; from tracker.store.opening import open_for_writing; open_for_writing(sys.argv[1]).close(); "
        "print('alembic' in sys.modules)",
        db,
    )

    assert child.communicate() == ("False\n", "")
    assert db.read_bytes() == before


def test_the_journal_is_a_wal_and_no_connection_checkpoints_by_itself(db):
    with open_for_writing(db).engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA wal_autocheckpoint")).scalar() == 0
        assert connection.execute(text("PRAGMA mmap_size")).scalar() in (0, None)


def test_a_dangling_symbolic_link_leads_to_a_private_file(db, tmp_path):
    target = tmp_path / "elsewhere.db"
    db.symlink_to(target)

    open_for_writing(db).close()

    assert db.is_symlink() and mode_of(target) == 0o600


def test_a_path_with_the_signs_of_urls_is_a_path(tmp_path):
    db = tmp_path / "100% #1?mode=ro ü.db"

    open_for_writing(str(db)).close()

    assert db.stat().st_size > 0


def test_a_sqlite_url_names_a_file(db):
    open_for_writing(f"sqlite:///{db}").close()

    assert version_of(db)[0] == SCHEMA_VERSION


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_database_in_memory_is_refused(url):
    with pytest.raises(StoreError, match="give its path"):
        open_for_writing(url)


@pytest.mark.parametrize("opener", [open_for_writing, open_for_reading])
def test_a_folder_is_no_database(tmp_path, opener):
    with pytest.raises(NotADatabaseError, match=r"is a folder.*runs\.db"):
        opener(tmp_path)


@pytest.mark.parametrize("opener", [open_for_writing, open_for_reading])
@pytest.mark.parametrize("content", [b"x", b"timestamp,power\n" * 1000, b"SQLite format 3\0" + bytes(range(256)) * 40])
def test_another_kind_of_file_is_no_database_and_is_left_as_it_is(db, opener, content):
    db.write_bytes(content)

    with pytest.raises(NotADatabaseError, match=r"runs\.db: is not a database; .*TRACKER_DB"):
        opener(db)

    assert db.read_bytes() == content


@pytest.mark.parametrize("opener", [open_for_writing, open_for_reading])
def test_another_programs_database_is_refused_and_left_as_it_is(db, opener):
    connection = sqlite3.connect(db)
    connection.executescript("CREATE TABLE runs (id); CREATE TABLE alembic_version (v); PRAGMA user_version = 1")
    connection.close()
    before = db.read_bytes()

    with pytest.raises(NotADatabaseError, match=r"another program's database .*runs"):
        opener(db)

    assert db.read_bytes() == before
    assert not Path(f"{db}-wal").exists()


def test_something_that_is_no_file_at_all_is_refused():
    with pytest.raises(NotADatabaseError, match="is not a file"):
        open_for_writing("/dev/null")


def test_a_folder_that_cannot_be_written_is_said():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to strangers
        Path(folder).chmod(0o555)

        def work():
            with pytest.raises(StoreError, match=r"runs\.db: Permission denied"):
                open_for_writing(Path(folder) / "runs.db")

        as_stranger(work)


def test_a_file_in_the_place_of_a_folder_is_said(db):
    db.write_text("x")

    with pytest.raises(StoreError, match=re.escape(str(db / "runs.db"))):
        open_for_writing(db / "runs.db")


def test_a_newer_database_is_refused_for_writing_with_both_versions_and_a_remedy(db):
    open_for_writing(db).close()
    connection = sqlite3.connect(db)
    connection.execute("PRAGMA user_version = 7")
    connection.close()

    with pytest.raises(SchemaTooNewError, match=rf"schema 7.*schema {SCHEMA_VERSION}.*pip install -U.*TRACKER_DB"):
        open_for_writing(db)


def test_a_newer_database_stays_readable(db, next_schema):
    store_run(db, a_full_run())
    open_for_writing(db, next_schema).close()

    assert RunReader(db).get("run-1").name == "finetune"


def test_a_newer_database_that_cannot_be_read_says_why(db):
    store_run(db, a_full_run())
    connection = sqlite3.connect(db)
    connection.executescript("DROP TABLE run_details; PRAGMA user_version = 9")
    connection.close()

    with pytest.raises(SchemaTooNewError, match="schema 9 of a newer tracker"):
        RunReader(db).runs()


@pytest.mark.parametrize("opener", [open_for_writing, open_for_reading])
def test_an_older_database_is_migrated_when_opened_and_keeps_its_runs(db, next_schema, opener):
    store_run(db, a_full_run())

    opener(db, next_schema).close()

    assert version_of(db) == NEXT
    connection = sqlite3.connect(db)
    assert connection.execute("SELECT id, water_l FROM runs").fetchall() == [("run-1", None)]
    connection.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(db, next_schema):
    store_run(db, a_full_run())
    before = described(db)
    script = next_schema.migrations / "versions" / f"{NEXT[1]}_water.py"
    script.write_text(
        NEXT_MIGRATION + "\n\ndef upgrade():\n    op.drop_table('marks')\n    op.execute('SELECT nothing')\n"
    )

    with pytest.raises(StoreError, match="nothing"):
        open_for_writing(db, next_schema)

    assert described(db) == before
    assert version_of(db) == PRESENT


def test_a_writer_of_the_older_code_goes_on_after_a_migration(db, next_schema):
    writer = stored_runs.writer_of(db)

    open_for_writing(db, next_schema).close()
    writer.commit_second(stored_runs.second(0), stored_runs.after(1))
    writer.seal(stored_runs.a_run(), stored_runs.chunks(range(1)), [], stored_runs.after(2))
    writer.close()

    assert len(RunReader(db).get("run-1").samples()) == 2


def test_a_database_restored_from_a_dump_is_known_by_alembics_table(db, tmp_path):
    store_run(db, a_full_run())
    restored = tmp_path / "restored.db"
    old, new = sqlite3.connect(db), sqlite3.connect(restored)
    new.executescript("\n".join(old.iterdump()))
    old.close()
    new.close()

    open_for_writing(restored).close()

    assert version_of(restored) == PRESENT
    assert RunReader(restored).get("run-1").energy_j == 6050.25


@pytest.mark.parametrize("fixture", sorted((ROOT / "tests" / "data").glob("schema-*.db")), ids=lambda path: path.stem)
def test_every_schema_there_has_been_still_opens(fixture, db):
    shutil.copy(fixture, db)

    open_for_writing(db).close()
    (run,) = RunReader(db).runs()

    assert run.id == "fixture" and run.status == "finished" and run.energy_j == 600.0
    assert [len(samples) for samples in run.samples()] == [6]
    assert [span.name for span in run.spans] == ["epoch"] and len(run.marks) == 1


def test_there_is_a_file_of_the_present_schema():
    assert (ROOT / "tests" / "data" / f"schema-{SCHEMA_VERSION:04d}.db").exists()


RACER = """
import sys
from pathlib import Path
from tracker.store.opening import Schema, open_for_writing
from stored_runs import a_full_run, writer_of, after
schema = Schema(Schema().version + 1, Path(sys.argv[3])) if len(sys.argv) > 3 else Schema()
print("ready", flush=True)
sys.stdin.readline()
open_for_writing(sys.argv[1], schema).close()
if schema == Schema():
    writer = writer_of(sys.argv[1], a_full_run(sys.argv[2]))
    writer.finish(a_full_run(sys.argv[2]), [], [], after(1))
    writer.close()
"""


def race(db: Path, *arguments: Path) -> None:
    children = [python(RACER, db, f"run-{n}", *arguments) for n in range(6)]
    for child in children:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    errors = [child.communicate()[1] for child in children]
    assert errors == [""] * 6


def test_processes_that_create_one_database_at_once_all_succeed(db):
    race(db)

    assert sorted(run.id for run in RunReader(db).runs()) == [f"run-{n}" for n in range(6)]
    connection = sqlite3.connect(db)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_processes_that_migrate_one_database_at_once_all_succeed(db, next_schema):
    store_run(db, a_full_run())

    race(db, next_schema.migrations)

    assert version_of(db) == NEXT
    assert len(RunReader(db).runs()) == 1


def test_no_file_stays_open_after_closing(db):
    before = sorted(Path("/proc/self/fd").iterdir())

    store_run(db, a_full_run())
    RunReader(db).get("last").samples()

    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert not Path(f"{db}-shm").exists() or Path(f"{db}-wal").stat().st_size == 0


def test_a_missing_file_reads_as_empty_and_is_not_made(db):
    assert open_for_reading(db).version is None
    assert RunReader(db).runs() == []
    assert not db.exists()


def test_a_reader_finds_what_was_made_after_it(db):
    reader = RunReader(db)
    assert reader.runs() == []

    store_run(db, a_full_run())

    assert len(reader.runs()) == 1


def test_a_reader_cannot_write(db):
    store_run(db, a_full_run())

    with open_for_reading(db).engine.connect() as connection, pytest.raises(Exception, match="readonly"):
        connection.execute(text("DELETE FROM runs"))


def test_upgrade_makes_a_file_too(db):
    upgrade(db)

    assert version_of(db)[0] == SCHEMA_VERSION


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:hunter2@127.0.0.1:1/x",
        "postgresql+psycopg://127.0.0.1:1/x?user=me&password=hunter2",
        "nosuch://me:hunter2@host/x",
        "://me:hunter2@host/x",
        "postgresql+nosuchdriver://me:hunter2@host/x",
    ],
)
def test_no_message_or_cause_shows_a_password(url):
    with pytest.raises(StoreError) as caught:
        open_for_writing(url)

    assert "hunter2" not in str(caught.value)


@pytest.mark.postgres
def test_a_server_is_never_migrated_unasked_and_upgrade_makes_its_schema(postgres_url):
    with pytest.raises(StoreError, match=r"has no tables of the tracker; run `tracker db upgrade`"):
        open_for_writing(postgres_url)

    upgrade(postgres_url)
    upgrade(postgres_url)
    store_run(postgres_url, a_full_run())

    run = RunReader(postgres_url).get("run-1")
    assert (run.tags, run.energy_j, run.intensity) == (a_full_run().tags, 6050.25, a_full_run().intensity)
    with open_for_reading(postgres_url).engine.connect() as connection:
        view = connection.execute(text("SELECT started_utc, energy_kwh FROM v_runs")).one()
    assert view == ("2026-11-25T12:00:00.123456Z", 6050.25 / 3.6e6)
