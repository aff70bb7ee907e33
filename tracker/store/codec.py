"""Readings as bytes: the rows committed each second, and the compressed chunks they are sealed into.

A committed second ("hot") is rows of five little-endian int64, in HOT_COLUMNS' order, MISSING for what a device did not
give. A chunk holds one device's columns: a zlib stream of one byte of flags, then t, power, counter and average as
zigzag differences with their bytes shuffled, each followed by its mask where only a part of it is known. Columns that
are unknown throughout take no space. The number of the format stands beside the chunk: this tracker writes the newest
and reads all, and one that does not know it says so (in format 1, until 2026, the flags came before the stream, so that
no checksum covered them). Measured on a jittered 1 Hz trace with counter, 60 readings a chunk: see
benchmarks/store_queries.py; the choice of delta + shuffle + zlib: knowledge/ecosystem.md, section 6.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np

from tracker.errors import StoreError
from tracker.records import Device, Reading, Samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from tracker.records import BoolColumn, IntColumn

MISSING: Final = -(2**63)  # no true reading: powers and counters are not negative
HOT_COLUMNS: Final = ("device_index", "t_us", "power_mw", "counter_uj", "power_average_mw")
CHUNK_FORMAT: Final = 2
_BARE_FLAGS: Final = 1  # the format whose flags no checksum covers: a flipped bit could make a column another one
_FORMATS: Final = (_BARE_FLAGS, CHUNK_FORMAT)

_ZLIB_LEVEL: Final = 6
_ALL_UNKNOWN, _ALL_KNOWN, _PARTLY_KNOWN = 0, 1, 2
_MASKED_COLUMNS: Final = 3
_BYTES_PER_VALUE: Final = 8
_MOST_INFLATION: Final = 1032  # what DEFLATE makes of a byte at most


def append_reading(rows: array[int] | list[int], device_index: int, reading: Reading) -> None:
    """Add one reading to the rows of the next commit, which are an array of type "q" in the end."""
    power_mw, counter_uj, average_mw = reading.power_mw, reading.counter_uj, reading.power_average_mw
    rows.extend(
        (
            device_index,
            reading.t_us,
            MISSING if power_mw is None else power_mw,
            MISSING if counter_uj is None else counter_uj,
            MISSING if average_mw is None else average_mw,
        )
    )


def hot_bytes(rows: array[int]) -> bytes:
    """The rows of one commit as they are stored."""
    if sys.byteorder == "big":
        rows = array("q", rows)
        rows.byteswap()
    return rows.tobytes()


def hot_rows(payload: bytes) -> npt.NDArray[np.int64]:
    """The rows of a commit.

    Returns:
        shape (n, 5), columns as in HOT_COLUMNS.

    Raises:
        StoreError: the bytes are no whole number of rows.
    """
    row_bytes = _BYTES_PER_VALUE * len(HOT_COLUMNS)
    if len(payload) % row_bytes:
        raise StoreError(f"a committed second is damaged: {len(payload)} bytes are no whole number of readings")
    return np.frombuffer(payload, dtype="<i8").astype(np.int64).reshape(-1, len(HOT_COLUMNS))


def samples_of_hot(device: Device, rows: npt.NDArray[np.int64]) -> Samples:
    """One device's rows, shape (n, 5), as columns in order of time."""
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    columns = []
    for values in (rows[:, 2], rows[:, 3], rows[:, 4]):
        known = values != MISSING
        columns.append((np.where(known, values, 0), known))
    return _samples(device, rows[:, 1].copy(), columns)


def encode_chunk(samples: Samples) -> bytes:
    """The columns of one device as a chunk of CHUNK_FORMAT."""
    flags = 0
    parts = [b"", _packed(samples.t_us)]
    for position, (values, known) in enumerate(_columns(samples)):
        state = _ALL_KNOWN if known.all() else _PARTLY_KNOWN if known.any() else _ALL_UNKNOWN
        flags |= state << (2 * position)
        if state != _ALL_UNKNOWN:
            parts.append(_packed(values))
        if state == _PARTLY_KNOWN:
            parts.append(np.packbits(known).tobytes())
    parts[0] = bytes([flags])
    return zlib.compress(b"".join(parts), _ZLIB_LEVEL)


def decode_chunk(payload: bytes, n: int, chunk_format: int, device: Device) -> Samples:
    """The columns of a chunk, exactly as they were encoded.

    Args:
        payload: what encode_chunk gave.
        n: how many readings the chunk holds.
        chunk_format: the format's number, stored beside the payload.
        device: whose they are.

    Raises:
        StoreError: the format is unknown or the bytes are damaged.
    """
    states, body, is_all = _begun(payload, n, chunk_format, 1 + _MASKED_COLUMNS)
    column_bytes, mask_bytes = n * _BYTES_PER_VALUE, (n + 7) // 8
    if len(body) != _size_of(states, n) or not is_all:
        raise StoreError("a chunk of samples is damaged: it does not hold the bytes that it should")
    t_us = _unpacked(body[:column_bytes])
    at = column_bytes
    columns = []
    for state in states:
        values, known = np.zeros(n, np.int64), np.full(n, state == _ALL_KNOWN)
        if state != _ALL_UNKNOWN:
            values = _unpacked(body[at : at + column_bytes])
            at += column_bytes
        if state == _PARTLY_KNOWN:
            known = np.unpackbits(np.frombuffer(body[at : at + mask_bytes], np.uint8), count=n).astype(np.bool_)
            at += mask_bytes
        columns.append((values, known))
    return _samples(device, t_us, columns)


def decode_powers(
    chunks: Sequence[tuple[bytes, int, int]],
) -> tuple[IntColumn, IntColumn, BoolColumn]:
    """The instants and powers of many chunks at once, in their order, without the rest of them.

    For charts, which want many readings within a moment: of each chunk no more is inflated than these columns, and
    chunks of one length are taken apart together.

    Args:
        chunks: payload, number of readings and format of each, as for decode_chunk.

    Returns:
        t_us, power_mw (0 where unknown) and whether it is known, one after the other: (n,) each of all readings.

    Raises:
        StoreError: as decode_chunk.
    """
    for payload, n, chunk_format in chunks:
        _refuse_impossible(payload, n, chunk_format)
    starts = np.cumsum([0, *(n for _, n, _ in chunks)])
    t_us, power_mw = np.zeros((2, starts[-1]), np.int64)
    known = np.zeros(starts[-1], np.bool_)
    times: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)  # by the number of readings
    powers: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
    for start, (payload, n, chunk_format) in zip(starts.tolist(), chunks, strict=False):
        (state, *_), body, _ = _begun(payload, n, chunk_format, 2)
        column_bytes = n * _BYTES_PER_VALUE
        if len(body) < _size_of([state], n):
            raise StoreError("a chunk of samples is damaged: it does not hold the bytes that it should")
        times[n].append((start, body[:column_bytes]))
        if state != _ALL_UNKNOWN:
            powers[n].append((start, body[column_bytes : 2 * column_bytes]))
        if state == _PARTLY_KNOWN:
            bits = np.frombuffer(body, np.uint8, (n + 7) // 8, 2 * column_bytes)
            known[start : start + n] = np.unpackbits(bits, count=n).astype(np.bool_)
        else:
            known[start : start + n] = state == _ALL_KNOWN
    for column, by_length in ((t_us, times), (power_mw, powers)):
        for n, parts in by_length.items():
            if not n:
                continue
            places = np.array([start for start, _ in parts])[:, None] + np.arange(n)
            column[places] = _unpacked_rows(b"".join(body for _, body in parts), n)
    return t_us, power_mw, known


def joined(device: Device, pieces: list[Samples], unix_offset_us: int) -> Samples:
    """Pieces of one device in one segment, in order of time, as one."""
    columns = [
        (
            np.concatenate([values for values, _ in of_pieces]),
            np.concatenate([known for _, known in of_pieces]),
        )
        for of_pieces in zip(*(_columns(piece) for piece in pieces), strict=True)
    ]
    return _samples(device, np.concatenate([piece.t_us for piece in pieces]), columns, unix_offset_us)


def since(samples: Samples, t_us: int) -> Samples:
    """The readings at t_us and later."""
    start = int(np.searchsorted(samples.t_us, t_us, side="left"))
    columns = [(values[start:], known[start:]) for values, known in _columns(samples)]
    return _samples(samples.device, samples.t_us[start:], columns, samples.unix_offset_us)


def last_reading(samples: Samples) -> Reading:
    """The newest of at least one reading."""
    values = [int(column[-1]) if known[-1] else None for column, known in _columns(samples)]
    return Reading(int(samples.t_us[-1]), *values)


def _columns(samples: Samples) -> tuple[tuple[IntColumn, BoolColumn], ...]:
    return (
        (samples.power_mw, samples.power_known),
        (samples.counter_uj, samples.counter_known),
        (samples.power_average_mw, samples.power_average_known),
    )


def _samples(
    device: Device, t_us: IntColumn, columns: list[tuple[IntColumn, BoolColumn]], unix_offset_us: int = 0
) -> Samples:
    for column in (t_us, *(c for pair in columns for c in pair)):
        column.setflags(write=False)
    (power, power_known), (counter, counter_known), (average, average_known) = columns
    return Samples(
        device, t_us, power, power_known, counter, counter_known, average, average_known, unix_offset_us=unix_offset_us
    )


def _packed(values: IntColumn) -> bytes:
    """Differences with the sign in the lowest bit, so that small ones have high bytes of 0, then all first bytes,
    all second bytes …; differences wrap in 64 bits, so every int64 survives."""
    wrapping = values.astype(np.uint64)
    wrapping[1:] -= wrapping[:-1].copy()
    differences = wrapping.view(np.int64)
    zigzag = (differences << 1) ^ (differences >> 63)
    return zigzag.astype("<i8").view(np.uint8).reshape(-1, _BYTES_PER_VALUE).T.tobytes()


def _begun(payload: bytes, n: int, chunk_format: int, columns: int) -> tuple[list[int], bytes, bool]:
    """What is known of each masked column of a chunk, its content from the first column on, and whether that is all.

    Args:
        columns: of which the content is wanted, masks among it; it may hold more.
    """
    _refuse_impossible(payload, n, chunk_format)
    inflater = zlib.decompressobj()
    is_bare = chunk_format == _BARE_FLAGS
    # Never more than a damaged or hostile file may cost, and a byte more than the columns, to see that there is none.
    most = columns * n * _BYTES_PER_VALUE + (columns - 1) * ((n + 7) // 8) + 1
    try:
        content = inflater.decompress(payload[1:] if is_bare else payload, most + (not is_bare))
    except zlib.error as exc:
        raise StoreError(f"a chunk of samples is damaged: {exc}") from exc
    flags, body = (payload[0], content) if is_bare else (content[0] if content else -1, content[1:])
    states = [flags >> (2 * position) & 3 for position in range(_MASKED_COLUMNS)]
    if flags >> (2 * _MASKED_COLUMNS) or max(states) > _PARTLY_KNOWN:
        raise StoreError("a chunk of samples is damaged: its first byte is no description of columns")
    return states, body, inflater.eof


def _refuse_impossible(payload: bytes, n: int, chunk_format: int) -> None:
    """Before any memory is taken for n readings."""
    if chunk_format not in _FORMATS:
        known = ", ".join(map(str, _FORMATS))
        raise StoreError(f"a chunk of samples has format {chunk_format}, this tracker reads {known}: update it")
    if not payload or not 0 <= n <= len(payload) * _MOST_INFLATION // _BYTES_PER_VALUE:
        raise StoreError("a chunk of samples is damaged: it is empty, or too short for its number of readings")


def _size_of(states: Sequence[int], n: int) -> int:
    """How many bytes the instants and columns of these states take."""
    known = len(states) - states.count(_ALL_UNKNOWN)
    return (1 + known) * n * _BYTES_PER_VALUE + states.count(_PARTLY_KNOWN) * ((n + 7) // 8)


def _unpacked(packed: bytes) -> IntColumn:
    return _unpacked_rows(packed, len(packed) // _BYTES_PER_VALUE).ravel()


def _unpacked_rows(packed: bytes, n: int) -> IntColumn:
    """Columns of n values each, one after the other, as rows."""
    rows = len(packed) // (_BYTES_PER_VALUE * n) if n else 0
    shuffled = np.frombuffer(packed, np.uint8).reshape(rows, _BYTES_PER_VALUE, n)
    zigzag = np.ascontiguousarray(shuffled.transpose(0, 2, 1)).view("<u8")[:, :, 0].astype(np.uint64)
    differences = (zigzag >> np.uint64(1)) ^ (np.uint64(0) - (zigzag & np.uint64(1)))
    return np.cumsum(differences, axis=1, dtype=np.uint64).view(np.int64)
