"""A recorded trace in place of hardware, for demos, CI and machines without a meter.

A trace is a CSV file, plain or gzipped, with one row per device and instant, in any order of devices:

    # synthetic: eight GPUs in training
    t_s,kind,key,name,power_w,counter_j
    0.0,gpu,GPU-1,NVIDIA H100,72.1,0
    1.0,gpu,GPU-1,NVIDIA H100,540.3,306.2

t_s and key must be there, and power_w or counter_j or both. kind is gpu where it is left out, and name the key. An
empty cell is what the device did not give. The instants of a device rise; so does its counter, which neither wraps nor
restarts. Lines that begin with # are comments; the word "synthetic" in one of them is shown to whoever replays it.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import IO, Final, cast, get_args

from tracker.errors import TraceError
from tracker.machine import boottime_us
from tracker.records import Device, DeviceKind, Reading
from tracker.sensors.protocol import Inventory
from tracker.units import MICROJOULES_PER_J, MICROSECONDS_PER_S, MILLIWATTS_PER_W

_UNKNOWN: Final = -1
_GZIP_MAGIC: Final = b"\x1f\x8b"
_KINDS: Final = get_args(DeviceKind)
MAX_TRACE_CHARS: Final = 2**30  # three months of eight GPUs at 1 s
MAX_LINE_CHARS: Final = 2**16
_MAX_NUMBER: Final = 1e12  # a trace of 30 000 years, or a counter of 280 GWh: no such number is meant


@dataclass(slots=True)
class _Track:
    """The rows of one device: (n,) each, -1 where unknown."""

    kind: DeviceKind
    name: str
    t_us: array[int] = field(default_factory=lambda: array("q"))
    power_mw: array[int] = field(default_factory=lambda: array("q"))
    counter_uj: array[int] = field(default_factory=lambda: array("q"))

    @property
    def counted_uj(self) -> int:
        """What the counter counts in one pass of the trace."""
        known = [counter for counter in self.counter_uj if counter != _UNKNOWN]
        return known[-1] - known[0] if known else 0


class ReplaySensor:
    """Plays a trace in real time from each open on, over and over.

    Power is that of the last row at or before the instant; the counter runs linearly from row to row, so that energy is
    exact, and goes on counting when the trace begins anew. Before its first row and after its last a device gives
    nothing.

    Args:
        path: the trace. It is read here, so in the caller's thread.
        clock_us: the sample clock.

    Raises:
        TraceError: the file cannot be read, or is no trace; the message names the line.
    """

    name = "replay"

    def __init__(self, path: str | PathLike[str], *, clock_us: Callable[[], int] = boottime_us) -> None:
        self._path = Path(path)
        self._clock_us = clock_us
        self._tracks, self._is_synthetic = _load(self._path)
        self._start_us = min(track.t_us[0] for track in self._tracks.values())
        self._length_us = max(track.t_us[-1] for track in self._tracks.values()) - self._start_us
        self._counted_uj = {key: track.counted_uj for key, track in self._tracks.items()}
        self._opened_us: int | None = None

    def open(self) -> Inventory:
        self._opened_us = self._clock_us()
        note = f"replayed from {self._path.name}" + (" (synthetic)" if self._is_synthetic else "")
        return Inventory(
            tuple(
                Device(
                    kind=track.kind,
                    key=key,
                    name=track.name,
                    sensor=self.name,
                    has_counter=any(counter != _UNKNOWN for counter in track.counter_uj),
                    has_power=any(power != _UNKNOWN for power in track.power_mw),
                    counter_period_us=0 if any(counter != _UNKNOWN for counter in track.counter_uj) else None,
                    attributes={"trace": self._path.name},
                    notes=(note,),
                )
                for key, track in self._tracks.items()
            )
        )

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        now_us = self._clock_us()
        if self._opened_us is None:
            return [Reading(now_us) for _ in devices]
        passes, position_us = 0, now_us - self._opened_us
        if position_us > self._length_us > 0:
            passes, position_us = divmod(position_us, self._length_us)
        at_us = self._start_us + min(position_us, self._length_us)
        return [self._reading(now_us, device.key, passes, at_us) for device in devices]

    def close(self) -> None:
        self._opened_us = None

    def _reading(self, now_us: int, key: str, passes: int, at_us: int) -> Reading:
        track = self._tracks.get(key)
        row = bisect_right(track.t_us, at_us) - 1 if track else -1
        if track is None or row < 0 or at_us > track.t_us[-1]:
            return Reading(now_us)
        power_mw = track.power_mw[row]
        counter_uj = _counter_at(track, row, at_us)
        return Reading(
            now_us,
            None if power_mw == _UNKNOWN else power_mw,
            None if counter_uj is None else counter_uj + passes * self._counted_uj[key],
        )


def _counter_at(track: _Track, row: int, at_us: int) -> int | None:
    counter_uj = track.counter_uj[row]
    if counter_uj == _UNKNOWN or at_us == track.t_us[row]:
        return None if counter_uj == _UNKNOWN else counter_uj
    following_uj = track.counter_uj[row + 1]
    if following_uj == _UNKNOWN:
        return None
    step_us = track.t_us[row + 1] - track.t_us[row]
    return counter_uj + (following_uj - counter_uj) * (at_us - track.t_us[row]) // step_us


def _load(path: Path) -> tuple[dict[str, _Track], bool]:
    lines = _Lines(path)
    try:
        return _tracks(path, lines), lines.is_synthetic
    except OSError as exc:
        raise TraceError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    except (EOFError, zlib.error) as exc:
        raise TraceError(f"{path}: a damaged gzip file ({exc})") from exc
    except UnicodeDecodeError as exc:
        raise TraceError(f"{path}: not a text file, so no trace") from exc
    except csv.Error as exc:
        raise TraceError(f"{path}: not CSV ({exc})") from exc


class _Lines:
    """The lines of a trace, one at a time, comments as empty lines; each is bounded, and so are all together.

    Attributes:
        is_synthetic: a comment so far says so.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_synthetic = False

    def __iter__(self) -> Iterator[str]:
        left = MAX_TRACE_CHARS
        with self._opened() as text:
            while line := text.readline(MAX_LINE_CHARS + 1):
                left -= len(line)
                if len(line) > MAX_LINE_CHARS:
                    raise TraceError(f"{self._path}: no trace: a line is longer than {MAX_LINE_CHARS} characters")
                if left < 0:  # a small file may be packed out of a terabyte
                    raise TraceError(f"{self._path}: longer than {MAX_TRACE_CHARS} characters, cut it into several")
                if line.startswith("#"):
                    self.is_synthetic |= "synthetic" in line.lower()
                    line = "\n"  # which csv counts, and gives as a row without cells
                yield line

    def _opened(self) -> IO[str]:
        with self._path.open("rb") as file:
            is_packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        if is_packed:
            return gzip.open(self._path, "rt", encoding="utf-8-sig")
        return self._path.open(encoding="utf-8-sig")


def _tracks(path: Path, lines: Iterable[str]) -> dict[str, _Track]:
    reader = csv.reader(lines)
    header = next(filter(None, reader), [])
    columns = [column.strip() for column in header]
    if not {"t_s", "key"} <= set(columns) or not {"power_w", "counter_j"} & set(columns):
        raise TraceError(f"{path}: no trace: the first line must name t_s, key and power_w or counter_j")
    tracks: dict[str, _Track] = {}
    last_counter_uj: dict[str, int] = {}
    for cells in filter(None, reader):
        where = f"{path}, line {reader.line_num}"
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        key = row.get("key", "")
        if not key:
            raise TraceError(f"{where}: no key")
        kind = row.get("kind") or "gpu"
        if kind not in _KINDS:
            raise TraceError(f"{where}: kind must be one of {', '.join(_KINDS)}, not {kind!r}")
        t_us = _scaled(where, row, "t_s", MICROSECONDS_PER_S)
        power_mw = _scaled(where, row, "power_w", MILLIWATTS_PER_W)
        counter_uj = _scaled(where, row, "counter_j", MICROJOULES_PER_J)
        track = tracks.setdefault(key, _Track(cast(DeviceKind, kind), row.get("name") or key))
        if t_us == _UNKNOWN or (track.t_us and t_us <= track.t_us[-1]):
            raise TraceError(f"{where}: t_s must rise from row to row of a device")
        if counter_uj != _UNKNOWN:
            if counter_uj < last_counter_uj.get(key, 0):
                raise TraceError(f"{where}: counter_j must not fall; a trace holds counters with wraps undone")
            last_counter_uj[key] = counter_uj
        track.t_us.append(t_us)
        track.power_mw.append(power_mw)
        track.counter_uj.append(counter_uj)
    if not tracks:
        raise TraceError(f"{path}: a trace without rows")
    return tracks


def _scaled(where: str, row: dict[str, str], column: str, factor: int) -> int:
    cell = row.get(column, "")
    if not cell:
        return _UNKNOWN
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not 0 <= number <= _MAX_NUMBER:
        raise TraceError(f"{where}: {column} must be a number of 0 or more, or empty, not {cell!r}")
    return round(number * factor)
