"""Many processes that write runs into one SQLite file, with readers beside them: what is lost, and how long all take.

Each writer commits run after run: begin, so many commits of eight GPUs, an end that seals. Without a pause between the
commits what each waits for are the others. A reader asks for the newest page all the time.

    python benchmarks/writers.py [--writers 64] [--runs 2000] [--commits 10] [--pause 0] [--folder /somewhere]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sqlite3
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.synchronize import Event
from pathlib import Path

from tracker.errors import StoreError
from tracker.machine import clock_pair, this_segment
from tracker.records import Device, Reading, Run, Slot
from tracker.store.codec import append_reading, hot_bytes, hot_rows, samples_of_hot
from tracker.store.opening import WAL_LIMIT_BYTES, open_for_writing
from tracker.store.reading import RunReader
from tracker.store.writing import Chunk, RunWriter

GPUS = [Device("gpu", f"GPU-{i}", "GPU", "nvml", True, True) for i in range(8)]
MOST_REFUSALS = 1000
FRESH = multiprocessing.get_context("forkserver")  # nothing of SQLite's survives a fork; what is imported does


@dataclass(frozen=True)
class Figures:
    """What came of it.

    Attributes:
        lost: runs that are not in the file with all their readings.
        refused: why a call was not taken at once; it was made again, as a run does.
        commits_s, seals_s, reads_s: how long each took.
    """

    runs: int
    lost: int
    refused: Sequence[str]
    commits_s: Sequence[float]
    seals_s: Sequence[float]
    reads_s: Sequence[float]
    wal_bytes: int
    is_sound: bool
    took_s: float


def run_of(run_id: str) -> Run:
    """A run at its start."""
    unknown = dict.fromkeys(
        ("name", "project", "ended_at", "energy_j", "energy_modelled_j", "emissions_g", "emissions_modelled_g")
    )
    return Run(
        id=run_id,
        tags={},
        status="running",
        started_at=datetime.now(UTC),
        duration_s=0.0,
        pue=1.0,
        coverage=None,
        **unknown,
    )


def write(path: str, number: int, runs: int, commits: int, pause_s: float, began: Event, told: object) -> None:
    """One process: its runs, one after another; what it measured goes to the queue."""
    database = open_for_writing(path)
    commits_s, seals_s, refused = [], [], []

    def insist(work: Callable[[], object]) -> float:
        """Have it done, however often it is refused; how long that took, in seconds."""
        begun_s = time.perf_counter()
        while True:
            try:
                work()
            except StoreError as exc:
                refused.append(str(exc))
                if len(refused) > MOST_REFUSALS:
                    raise
            else:
                return time.perf_counter() - begun_s

    began.wait()
    for at in range(runs):
        run, writer, kept = run_of(f"{number:03}-{at:05}"), RunWriter(database), array("q")
        insist(lambda run=run, writer=writer: writer.begin(run, this_segment()))
        insist(lambda writer=writer: writer.add_devices(GPUS))
        for _ in range(commits):
            now, rows = clock_pair(), array("q")
            for index in range(len(GPUS)):
                append_reading(rows, index, Reading(now.boottime_us, 300_000, 1_000_000))
            commits_s.append(insist(lambda writer=writer, rows=rows, now=now: writer.commit_second(rows, now)))
            kept.extend(rows)
            time.sleep(pause_s)
        table = hot_rows(hot_bytes(kept))
        chunks = [Chunk(i, samples_of_hot(gpu, table[table[:, 0] == i]), None) for i, gpu in enumerate(GPUS)]
        slots = [Slot(i, 0, 1, 1, None) for i in range(len(GPUS))]
        seals_s.append(
            insist(lambda run=run, writer=writer, what=(chunks, slots): writer.finish(run, *what, clock_pair()))
        )
        writer.close()
    told.put((commits_s, seals_s, refused))


def read(path: str, began: Event, is_over: Event, told: object) -> None:
    """One reader, which asks for the newest runs until all is over."""
    reader, reads_s, wal_bytes = RunReader(path), [], 0
    began.wait()
    while not is_over.is_set():
        begun_s = time.perf_counter()
        reader.runs(limit=20)
        reads_s.append(time.perf_counter() - begun_s)
        with contextlib.suppress(OSError):  # the last one to close has taken it in
            wal_bytes = max(wal_bytes, Path(f"{path}-wal").stat().st_size)
        time.sleep(0.01)
    told.put((reads_s, wal_bytes))


def measured(path: Path, *, writers: int, runs: int, commits: int, pause_s: float = 0.0) -> Figures:
    """So many runs by so many writers into one file.

    Args:
        runs: in all; a multiple of writers.
        commits: of each run.
        pause_s: of a writer after each; 1 in real runs.
    """
    FRESH.set_forkserver_preload(["tracker.store.reading", "tracker.store.writing", "tracker.machine"])
    open_for_writing(path).close()
    began, is_over = FRESH.Event(), FRESH.Event()
    told, told_by_reader = FRESH.Queue(), FRESH.Queue()
    each = runs // writers
    processes = [
        FRESH.Process(target=write, args=(str(path), number, each, commits, pause_s, began, told))
        for number in range(writers)
    ]
    reader = FRESH.Process(target=read, args=(str(path), began, is_over, told_by_reader))
    for process in (*processes, reader):
        process.start()
    time.sleep(1.0 + 0.02 * writers)  # until most have begun
    begun_s = time.perf_counter()
    began.set()
    by_writer = [told.get() for _ in processes]
    took_s = time.perf_counter() - begun_s
    is_over.set()
    reads_s, wal_bytes = told_by_reader.get()
    for process in (*processes, reader):
        process.join()
    connection = sqlite3.connect(path)
    try:
        counted = connection.execute("SELECT run_id, sum(n) FROM chunks GROUP BY run_id").fetchall()
        is_sound = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()
    whole = sum(n == commits * len(GPUS) for _, n in counted)
    return Figures(
        runs=each * writers,
        lost=each * writers - whole,
        refused=[reason for _, _, refused in by_writer for reason in refused],
        commits_s=sorted(s for commits_s, _, _ in by_writer for s in commits_s),
        seals_s=sorted(s for _, seals_s, _ in by_writer for s in seals_s),
        reads_s=sorted(reads_s),
        wal_bytes=wal_bytes,
        is_sound=is_sound,
        took_s=took_s,
    )


def shares_ms(times_s: Sequence[float]) -> str:
    """Median, 99 % and longest."""
    picked = (times_s[len(times_s) // 2], times_s[int(len(times_s) * 0.99)], times_s[-1])
    return " | ".join(f"{1000 * s:.1f} ms" for s in picked)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--commits", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--folder", help="on the disk to be measured; by default among the temporary files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="writers-", dir=given.folder) as folder:
        found = measured(
            Path(folder) / "runs.db",
            writers=given.writers,
            runs=given.runs,
            commits=given.commits,
            pause_s=given.pause,
        )
    print(f"{given.writers} writers, {found.runs} runs of {given.commits} commits in {found.took_s:.1f} s")
    state = "sound" if found.is_sound else "DAMAGED"
    print(f"lost {found.lost}, refused and made again {len(found.refused)}, file {state}")
    print(f"largest WAL {found.wal_bytes / 2**20:.1f} MiB (limit {WAL_LIMIT_BYTES / 2**20:.0f} MiB between seals)")
    print("\n| what | median | 99 % | longest |\n|---|---|---|---|")
    for what, times_s in (
        ("commit", found.commits_s),
        ("end of a run", found.seals_s),
        ("a reader's page", found.reads_s),
    ):
        print(f"| {what} | {shares_ms(times_s)} |")
    for reason in sorted(set(found.refused)):
        print(reason)


if __name__ == "__main__":
    main()
