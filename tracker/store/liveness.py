"""Whether the process that writes a segment still lives, as far as a reader can tell. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tracker.records import Segment
from tracker.units import MICROSECONDS_PER_S

SILENCE_LIMIT_US: Final = 600 * MICROSECONDS_PER_S


def is_alive(
    segment: Segment,
    last_commit_unix_us: int,
    now_unix_us: int,
    here: Segment,
    process_start: Callable[[int], int | None],
) -> bool:
    """Whether a segment that has not ended is still being written.

    A process that the reader could see must be there, with the start time that tells it from a later one with the same
    number. One on another host, since another boot or in another container is believed for 10 minutes after its last
    commit.

    Args:
        segment: the writer.
        last_commit_unix_us: its last sign of life.
        now_unix_us: the reader's clock.
        here: the reader's own process.
        process_start: start time of a process by its number, None where it does not run.
    """
    if _can_see(here, segment):
        return process_start(segment.pid) == segment.pid_start
    return now_unix_us - last_commit_unix_us <= SILENCE_LIMIT_US


def _can_see(here: Segment, segment: Segment) -> bool:
    is_identified = bool(segment.boot_id and segment.pid_namespace and segment.pid_start)  # all unknown without /proc
    return is_identified and (here.host, here.boot_id, here.pid_namespace) == (
        segment.host,
        segment.boot_id,
        segment.pid_namespace,
    )
