"""The newest readings of a run that goes on, found without a look at its earlier ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from tracker.records import Device, Samples
from tracker.store import tables
from tracker.store.codec import decode_chunk, joined, samples_of_hot
from tracker.store.reading import RunReader, hot_of
from tracker.units import MICROSECONDS_PER_S

_LONGEST_CHUNK_US: Final = 180 * MICROSECONDS_PER_S  # a minute, unless the writer was held up


def recent(
    reader: RunReader, run_id: str, devices: Sequence[Device], since_unix_us: int | None, most_us: int
) -> list[tuple[int, Samples]]:
    """The newest readings of each segment and device, and some before those that are asked for.

    With the number of the device, as two machines may have devices of one key.

    Args:
        devices: of the run as last read; those that it has taken up since are left out.
        since_unix_us: from when on; where the calendar clock was set so that it lies ahead, or None, most_us holds.
        most_us: no further back than this from the newest commit.

    Raises:
        StoreError: the database cannot be read.
    """
    found = []
    segments, pairs = tables.segments.c, tables.clock_pairs.c
    commits = (
        sa.select(segments.segment, segments.last_commit_unix_us)
        .where(segments.run_id == run_id)
        .order_by(segments.segment)
    )
    with reader.snapshot() as connection:
        last_us = {row.segment: row.last_commit_unix_us for row in connection.execute(commits)}
        newest_us = max(last_us.values(), default=0)
        if since_unix_us is None or not newest_us - most_us <= since_unix_us <= newest_us:
            since_unix_us = newest_us - most_us
        for segment in (segment for segment, commit_us in last_us.items() if commit_us >= since_unix_us):
            newest = (
                sa.select(pairs.unix_us - pairs.boottime_us)
                .where(pairs.run_id == run_id, pairs.segment == segment)
                .order_by(pairs.boottime_us.desc())
                .limit(1)
            )
            offset_us = connection.scalars(newest).one()
            pieces = _sealed(connection, run_id, segment, devices, since_unix_us - offset_us)
            hot = hot_of(connection, run_id, segment)
            for index, device in enumerate(devices):
                of_device = hot[hot[:, 0] == index]
                if len(of_device):
                    pieces[index].append(samples_of_hot(device, of_device))
                if pieces[index]:
                    found.append((index, joined(device, pieces[index], offset_us)))
    return found


def _sealed(
    connection: sa.Connection, run_id: str, segment: int, devices: Sequence[Device], since_us: int
) -> defaultdict[int, list[Samples]]:
    """The chunks of all devices that reach to since_us or further, by the number of the device."""
    c = tables.chunks.c
    query = (
        sa.select(c.device_index, c.payload, c.n, c.format)
        .where(
            c.run_id == run_id,
            c.segment == segment,
            c.device_index.in_(range(len(devices))),  # for the index to reach t0_us
            c.t0_us >= since_us - _LONGEST_CHUNK_US,
            c.t1_us >= since_us,
        )
        .order_by(c.device_index, c.t0_us)
    )
    found: defaultdict[int, list[Samples]] = defaultdict(list)
    for index, payload, n, chunk_format in connection.execute(query):
        found[index].append(decode_chunk(payload, n, chunk_format, devices[index]))
    return found
