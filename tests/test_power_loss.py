"""The power goes while a run is written: the file opens, and all that was sealed is in it (DESIGN, section 7)."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from standin import powercut
from standin.nvml import build
from stored_runs import BOOT_US, ROOT, SECOND_US

from tracker.session.past import reader_of
from tracker.store.codec import hot_rows
from tracker.store.reading import RunReader

SECONDS_PER_SEAL = 4  # in place of 60: what is promised is the last seal
SEALS = 12
CUTS = 60

WRITER = """
import os, sys
from pathlib import Path
from stored_runs import *
from tracker.records import Slot
from tracker.store import opening

opening.WAL_LIMIT_BYTES = 60_000  # so that it is moved into the database several times
folder, journal, each, seals = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
told = os.open(folder / "told", os.O_WRONLY | os.O_CREAT)

def tell(text):
    os.write(told, f"{text}\\n".encode())

writer = RunWriter(open_for_writing(folder / "runs.db"))
if journal == "delete":
    with writer._transaction() as connection:
        pass
    opening.driver_connection(writer._connection).execute("PRAGMA journal_mode=DELETE").fetchall()
writer.begin(a_run(), HERE, ["train.py"])
writer.add_devices([GPU, PACKAGE])
tell("begun")
for seal in range(seals):
    done = range(seal * each, (seal + 1) * each)
    for index in done:
        writer.commit_second(second(index), after(index + 1))
    slots = [Slot(0, 0, 2_000_000_000, SECOND_US, 100_000)]
    if seal + 1 < seals:
        writer.seal(a_run(), chunks(done), slots, after(done[-1] + 1))
        tell("sealed")
writer.finish(a_run(status="finished", ended_at=START), chunks(done), slots, after(done[-1] + 1))
tell("sealed")
tell("finished")
writer.close()
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return build(tmp_path_factory.mktemp("powercut"), powercut.SOURCE, powercut.LIBRARY_NAME)


def recorded(shim: Path, tmp_path: Path, journal: str) -> list[powercut.Change]:
    folder, log = tmp_path / "disk", tmp_path / "log"
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-W", "error", "-c", WRITER, str(folder), journal, str(SECONDS_PER_SEAL), str(SEALS)],
        env={
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "PATH": os.environ["PATH"],
            "LD_PRELOAD": str(shim),
            "POWERCUT_FOLDER": os.path.realpath(folder),
            "POWERCUT_LOG": str(log),
        },
        check=True,
    )
    return powercut.changes(log)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_whenever_the_power_goes_the_file_opens_with_all_that_was_sealed(journal, shim, tmp_path):
    made = recorded(shim, tmp_path, journal)
    # The recording itself: all that is on the disk came through it, and the run was written as it should.
    whole = powercut.Disk()
    for change in made:
        whole.take(change)
    seen = {name: file for name, file in whole._entries.items() if name != "told"}
    for file in seen.values():
        file.sync()
    assert {name: bytes(file.kept) for name, file in seen.items()} == {
        path.name: path.read_bytes() for path in (tmp_path / "disk").iterdir() if path.name != "told"
    }
    syncs = sum(change.what == "sync" for change in made)
    assert syncs >= SEALS and any(change.name.endswith(("-wal", "-journal")) for change in made)

    chance = random.Random(f"{journal} 1")
    outcomes = set()
    for moment, files in powercut.cuts(made, CUTS, chance):
        files.pop("told", None)
        told = b"".join(change.content for change in made[:moment] if change.name == "told").decode().split()
        db = powercut.written(files, tmp_path / "after") / "runs.db"
        outcomes.add(check(db, told.count("sealed"), is_finished="finished" in told, has_begun=len(told) > 0))
    assert {"sealed", "more than sealed"} <= outcomes


def check(db: Path, sealed: int, *, is_finished: bool, has_begun: bool) -> str:
    """What is left, which must hold so many seals."""
    if Path(f"{db}-journal").exists():  # the first one who may write takes back what is half done
        with closing(sqlite3.connect(db)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    run = next(iter(reader_of(db).runs()), None) if db.exists() else None
    if run is None:
        assert sealed == 0, "the run is gone"
        return "nothing yet"
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        hot = [hot_rows(payload) for (payload,) in connection.execute("SELECT payload FROM hot_readings ORDER BY seq")]
        in_chunks = connection.execute("SELECT max(t1_us) FROM chunks WHERE device_index = 1").fetchone()[0]
    kept = 0 if in_chunks is None else round((in_chunks - BOOT_US) / SECOND_US) + 1
    assert kept >= sealed * SECONDS_PER_SEAL, "a seal is gone"
    assert kept % SECONDS_PER_SEAL == 0, "half a seal"
    slots = RunReader(db).slots("run-1")
    assert sum(slot.covered_us for slot in slots) == kept // SECONDS_PER_SEAL * SECOND_US, "slots of another time"
    package = [rows[rows[:, 0] == 1, 1] for rows in hot]
    assert [(int(t_us[0]) - BOOT_US) // SECOND_US for t_us in package] == list(range(kept, kept + len(package)))
    if kept or package:
        *_, samples = RunReader(db).samples("run-1")
        np.testing.assert_array_equal(np.diff(samples.t_us), SECOND_US)
        assert len(samples) == kept + len(package)
    if is_finished:
        assert run.status == "finished"
    return "more than sealed" if kept + len(package) > sealed * SECONDS_PER_SEAL else "sealed"
