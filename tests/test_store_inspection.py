"""Looking at a database: what is told of each state of it, and that nothing changes, not even beside it."""

import sqlite3
import tempfile
from pathlib import Path

import pytest
from stored_runs import a_full_run, as_stranger, python, store_run

from tracker.store.inspection import inspect
from tracker.store.opening import open_for_writing
from tracker.store.tables import SCHEMA_VERSION

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
print("held", flush=True)
sys.stdin.readline()
"""


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def test_what_is_not_there_is_not_made(place):
    found = inspect(place / "a" / "runs.db")

    assert (found.exists, found.version, found.trouble) == (False, None, "")
    assert found.free_bytes > 0
    assert list(place.iterdir()) == []


def test_one_that_nobody_uses_is_read_without_files_beside_it(place):
    store_run(place / "runs.db", a_full_run())
    before = contents(place)

    found = inspect(place / "runs.db")

    assert (found.exists, found.version, found.trouble) == (True, SCHEMA_VERSION, "")
    assert found.size_bytes == (place / "runs.db").stat().st_size
    assert contents(place) == before and list(before) == ["runs.db"]


def test_one_in_use_is_read_with_what_its_log_holds(place):
    open_for_writing(place / "runs.db").close()
    writer = sqlite3.connect(place / "runs.db", isolation_level=None)
    writer.execute("PRAGMA wal_autocheckpoint=0")
    writer.execute("PRAGMA user_version=77")

    assert "schema 77" in inspect(place / "runs.db").trouble
    writer.close()


def test_an_older_one_is_told_and_not_migrated(place):
    (place / "old.db").write_bytes((Path(__file__).parent / "data" / "schema-0001.db").read_bytes())
    before = contents(place)

    found = inspect(place / "old.db")

    assert (found.version, found.trouble) == (1, "")
    assert contents(place) == before


def test_an_empty_file_is_one_that_can_be_used(place):
    (place / "runs.db").touch()

    found = inspect(place / "runs.db")

    assert (found.exists, found.version, found.size_bytes, found.trouble) == (True, None, 0, "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"short", "is not a database"),
        (b"junk" * 1000, "is not a database"),
        (b"SQLite format 3\0" + b"\0" * 4000, "is not a database"),
    ],
)
def test_another_file_is_refused_and_stays_as_it_is(place, content, said):
    (place / "runs.db").write_bytes(content)
    before = contents(place)

    assert said in inspect(place / "runs.db").trouble
    assert contents(place) == before


def test_a_folder_and_another_programs_database_are_refused(place):
    with sqlite3.connect(place / "other.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()

    assert "is a folder" in inspect(place).trouble
    assert "another program's database" in inspect(place / "other.db").trouble


@pytest.mark.parametrize(
    ("journal", "statement"),
    [("wal", "BEGIN IMMEDIATE"), ("delete", "BEGIN IMMEDIATE"), ("delete", "BEGIN EXCLUSIVE")],
)
def test_one_that_another_process_keeps_locked_says_which(place, journal, statement):
    path = place / "runs.db"
    open_for_writing(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
    connection.close()
    assert inspect(path).trouble == ""
    with python(HOLD, path, statement) as holder:
        assert holder.stdout.readline() == "held\n"
        before = contents(place)

        found = inspect(path, look_s=0.05)

        assert contents(place) == before
        holder.communicate("\n")
    assert f"process {holder.pid} keeps it locked" in found.trouble
    assert inspect(path).trouble == ""


def test_what_may_not_be_written_says_so():
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to the stranger that root becomes
        place = Path(folder)
        open_for_writing(place / "runs.db").close()
        (place / "runs.db").chmod(0o444)
        place.chmod(0o555)

        def look() -> None:
            assert "runs.db: may not be written by you" in inspect(place / "runs.db").trouble
            assert f"{place}: may not be written by you" in inspect(place / "new.db").trouble

        as_stranger(look)
        place.chmod(0o755)


def test_a_url_shows_neither_its_password_nor_the_servers_words():
    unreadable = inspect("postgresql://me:pass/word@db:port/x")
    unknown = inspect("nonsense://me:password@db.example/x")

    for found in (unreadable, unknown):
        assert found.trouble and found.path is None
        assert "pass" not in found.label + found.trouble


@pytest.mark.postgres
def test_a_server_is_looked_at_without_being_changed(postgres_url):
    assert "run `tracker db upgrade` once" in inspect(postgres_url).trouble

    nobody = inspect(postgres_url.replace("tracker@", "somebody:secret@"))

    assert "does not take the connection" in nobody.trouble and "somebody" not in nobody.trouble
