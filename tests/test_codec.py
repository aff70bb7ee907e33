from __future__ import annotations

import contextlib
import tracemalloc
import zlib
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tracker.errors import StoreError
from tracker.records import Device, Reading, Samples
from tracker.store.codec import (
    CHUNK_FORMAT,
    MISSING,
    append_reading,
    decode_chunk,
    decode_powers,
    encode_chunk,
    hot_bytes,
    hot_rows,
    joined,
    samples_of_hot,
    since,
)

DEVICE = Device("gpu", "GPU-1", "Test GPU", "nvml", has_counter=True, has_power=True)
COLUMNS = (
    "t_us",
    "power_mw",
    "power_known",
    "counter_uj",
    "counter_known",
    "power_average_mw",
    "power_average_known",
)
INT64 = st.integers(-(2**63), 2**63 - 1)
READING = st.builds(
    Reading,
    t_us=st.integers(0, 2**62),
    power_mw=st.none() | st.integers(0, 2**63 - 1),
    counter_uj=st.none() | st.integers(0, 2**63 - 1),
    power_average_mw=st.none() | st.integers(0, 2**63 - 1),
)


@st.composite
def any_samples(draw: st.DrawFn) -> Samples:
    n = draw(st.integers(0, 40))
    t_us = np.sort(draw(hnp.arrays(np.int64, n, elements=INT64)))
    columns = []
    for _ in range(3):
        values = draw(hnp.arrays(np.int64, n, elements=INT64))
        known = draw(st.sampled_from([np.zeros(n, bool), np.ones(n, bool)]) | hnp.arrays(np.bool_, n))
        columns += [np.where(known, values, 0), known]
    return Samples(DEVICE, t_us, *columns)


def assert_same(left: Samples, right: Samples) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name, strict=True)


@given(any_samples())
def test_a_chunk_gives_back_every_column_bit_for_bit(samples: Samples) -> None:
    payload = encode_chunk(samples)

    assert_same(decode_chunk(payload, len(samples), CHUNK_FORMAT, DEVICE), samples)


@given(any_samples(), st.data())
def test_a_damaged_chunk_is_refused_and_never_decoded_to_other_readings(samples: Samples, data: st.DataObject) -> None:
    payload = bytearray(encode_chunk(samples))
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= data.draw(st.integers(1, 255))

    try:
        decoded = decode_chunk(bytes(payload), len(samples), CHUNK_FORMAT, DEVICE)
    except StoreError:
        return
    assert_same(decoded, samples)  # a flipped bit that zlib ignores


@given(any_samples(), st.integers(-3, 3).filter(bool))
def test_a_chunk_with_another_number_of_readings_is_refused(samples: Samples, difference: int) -> None:
    with pytest.raises(StoreError):
        decode_chunk(encode_chunk(samples), len(samples) + difference, CHUNK_FORMAT, DEVICE)


def test_a_truncated_or_empty_chunk_is_refused() -> None:
    samples = samples_of_hot(DEVICE, hot_rows(array("q", [0, 1, 2, 3, 4] * 50).tobytes()))
    payload = encode_chunk(samples)

    for end in range(len(payload)):
        with pytest.raises(StoreError):
            decode_chunk(payload[:end], len(samples), CHUNK_FORMAT, DEVICE)


def test_an_unknown_format_says_that_the_tracker_is_older() -> None:
    newer = CHUNK_FORMAT + 1
    with pytest.raises(StoreError, match=rf"format {newer}.*update"):
        decode_chunk(b"\0", 0, newer, DEVICE)


def test_no_bit_of_the_flags_makes_a_counter_a_power() -> None:
    samples = counted()
    payload = encode_chunk(samples)

    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(StoreError):
            assert_same(decode_chunk(bytes(damaged), len(samples), CHUNK_FORMAT, DEVICE), samples)


def counted() -> Samples:
    """One reading of a device with a counter alone: in format 1 one bit made it a power, of the counter's value."""
    return samples_of_hot(DEVICE, np.array([[0, 5, MISSING, 7_000_000, MISSING]]))


def in_format_1(payload: bytes) -> bytes:
    """A chunk as trackers until 2026 wrote it: the flags before the stream."""
    body = zlib.decompress(payload)
    return body[:1] + zlib.compress(body[1:])


@settings(max_examples=30)
@given(any_samples())
def test_chunks_of_format_1_are_read_as_ever(samples: Samples) -> None:
    payload = in_format_1(encode_chunk(samples))

    assert_same(decode_chunk(payload, len(samples), 1, DEVICE), samples)
    t_us, power_mw, known = decode_powers([(payload, len(samples), 1)] * 2)
    np.testing.assert_array_equal(t_us, np.tile(samples.t_us, 2))
    np.testing.assert_array_equal(power_mw, np.tile(samples.power_mw, 2))
    np.testing.assert_array_equal(known, np.tile(samples.power_known, 2))


@pytest.mark.parametrize("chunk_format", [1, CHUNK_FORMAT])
def test_a_stream_that_inflates_to_more_than_its_readings_is_refused_unread(chunk_format: int) -> None:
    body = bytes(10_000_000)
    bomb = zlib.compress(body) if chunk_format > 1 else b"\0" + zlib.compress(body)

    tracemalloc.start()
    try:
        for n in (0, 1, 2**40):  # the last: for which no memory would do
            with pytest.raises(StoreError, match="damaged"):
                decode_chunk(bomb, n, chunk_format, DEVICE)
        with pytest.raises(StoreError, match="damaged"):
            decode_powers([(bomb, 2**40, chunk_format)])
        assert tracemalloc.get_traced_memory()[1] < len(body) / 10
    finally:
        tracemalloc.stop()


@given(st.lists(READING, max_size=20))
def test_committed_readings_come_back_with_their_gaps(readings: list[Reading]) -> None:
    rows: array[int] = array("q")
    for reading in readings:
        append_reading(rows, 3, reading)

    decoded = hot_rows(hot_bytes(rows))
    samples = samples_of_hot(DEVICE, decoded)

    assert decoded.shape == (len(readings), 5)
    expected = sorted(readings, key=lambda reading: reading.t_us)
    for row, reading in enumerate(expected):
        assert samples.t_us[row] == reading.t_us
        assert (samples.power_mw[row] if samples.power_known[row] else None) == reading.power_mw
        assert (samples.counter_uj[row] if samples.counter_known[row] else None) == reading.counter_uj
        assert (samples.power_average_mw[row] if samples.power_average_known[row] else None) == (
            reading.power_average_mw
        )
    assert MISSING not in samples.power_mw


def test_half_a_committed_row_is_refused() -> None:
    with pytest.raises(StoreError, match="damaged"):
        hot_rows(bytes(8))


@given(any_samples(), st.data())
def test_pieces_join_to_the_whole(samples: Samples, data: st.DataObject) -> None:
    cut_us = data.draw(INT64)

    late = since(samples, cut_us)
    early = decode_first(samples, len(samples) - len(late))

    assert (late.t_us >= cut_us).all() and (early.t_us < cut_us).all()
    assert_same(joined(DEVICE, [early, late], 0), samples)


def decode_first(samples: Samples, n: int) -> Samples:
    return Samples(DEVICE, *(getattr(samples, name)[:n] for name in COLUMNS))


def test_decoded_columns_cannot_be_written_to() -> None:
    samples = decode_chunk(
        encode_chunk(since(samples_of_hot(DEVICE, np.zeros((3, 5), np.int64)), 0)), 3, CHUNK_FORMAT, DEVICE
    )

    with pytest.raises(ValueError, match="read-only"):
        samples.power_mw[0] = 1


@given(st.lists(any_samples(), max_size=6))
def test_many_chunks_at_once_give_the_instants_and_powers_that_each_alone_gives(pieces: list[Samples]) -> None:
    chunks = [(encode_chunk(samples), len(samples), CHUNK_FORMAT) for samples in pieces]

    t_us, power_mw, known = decode_powers(chunks)

    for found, name in ((t_us, "t_us"), (power_mw, "power_mw"), (known, "power_known")):
        expected = [getattr(samples, name) for samples in pieces] or [np.zeros(0, found.dtype)]
        np.testing.assert_array_equal(found, np.concatenate(expected), strict=True)


@given(any_samples(), st.integers(0, 2))
def test_of_many_chunks_a_damaged_one_is_refused(samples: Samples, length: int) -> None:
    payload = encode_chunk(samples)

    with pytest.raises(StoreError, match="damaged"):
        decode_powers([(payload, len(samples), CHUNK_FORMAT), (payload[:length], len(samples) + 1, CHUNK_FORMAT)])
