"""The intensities of one run's grid over time: what its source says, kept in the run's database."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracker.errors import OfflineError, ProviderError, SettingError, StoreError
from tracker.intensity.choice import IntensityChoice
from tracker.intensity.filling import LONGEST_HOLE, filled
from tracker.intensity.providers.manners import Manners
from tracker.records import IntensityValue, plain, unix_us_of
from tracker.session.election import PlaceError, RecordLock, private_folder
from tracker.settings import Settings, has_grid
from tracker.store.intensities import Fetch
from tracker.units import MICROSECONDS_PER_S

if TYPE_CHECKING:
    from tracker.intensity.providers.protocol import Answer
    from tracker.intensity.providers.registry import ProviderChoice
    from tracker.store.writing import RunWriter

MIN_PERIOD_S: Final = 300.0  # no source here has shorter steps
FURTHEST_BACK: Final = timedelta(hours=24)  # what sources give for nothing; older values come by `tracker reprice`
LOCAL: Final = "file"

Warn = Callable[[str, str], None]


class Gate:
    """The turn of one source: one request at a time from this machine, and not more than its manners allow.

    The lock and what is remembered lie in the user's private folder. Where there is none (Windows), this process
    remembers for itself.
    """

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        # Another token is another account, another address another service: with counts and answers of its own.
        account = [environ.get(f"TRACKER_{name.upper()}_{what}", "") for what in ("TOKEN", "URL")]
        digest = hashlib.sha256(repr(account).encode("utf-8", "backslashreplace")).hexdigest()[:8]
        self.manners = Manners()
        self._lock: RecordLock | None = None
        self._path: Path | None = None
        try:
            import fcntl  # noqa: F401 - in the caller's thread, which the lock's own import may not be

            folder = private_folder(is_made=False)
        except (ImportError, PlaceError):
            return
        self._lock = RecordLock(folder / f"grid-{name}-{digest}.lock")
        self._path = folder / f"grid-{name}-{digest}.json"

    def take(self) -> bool:
        """Try to get the turn, without waiting; the manners are then those of all processes."""
        if self._lock is None or self._path is None:
            return True
        try:
            private_folder()  # made by the first who asks
            if not self._lock.take():
                return False
            self.manners = Manners.read(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self.manners = Manners()
        except (OSError, UnicodeDecodeError):
            pass
        return True

    def look(self, now_s: float) -> tuple[float, str]:
        """How long the source is left alone, and why; without having the turn."""
        if self._path is None:
            return 0.0, ""
        try:
            manners = Manners.read(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return 0.0, ""
        return manners.pause_s(now_s), manners.reason

    def keep(self) -> None:
        """Have the other processes know what is remembered now; only in one's turn."""
        if self._path is None or self._lock is None or not self._lock.is_ours:
            return
        being_written = self._path.with_suffix(".new")
        try:
            being_written.write_text(self.manners.text(), encoding="utf-8")
            being_written.replace(self._path)
        except OSError:
            pass  # the folder is full: each process then remembers for itself

    def share(self, zone: str, values: Sequence[IntensityValue], fetch: Fetch) -> None:
        """Have the other processes of this machine know an answer, whichever database they write to; in one's turn."""
        path = self._answer_of(zone)
        if path is None or self._lock is None or not self._lock.is_ours:
            return
        being_written = path.with_suffix(".new")
        try:
            text = json.dumps({"fetch": asdict(fetch), "values": plain(values)})
            being_written.write_text(text, encoding="utf-8")
            being_written.replace(path)
        except OSError:
            pass  # the folder is full: each database then learns for itself

    def shared(self, zone: str) -> tuple[list[IntensityValue], Fetch | None]:
        """The last answer that a process of this machine has had."""
        path = self._answer_of(zone)
        if path is None:
            return [], None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return [_value_of(plain_value) for plain_value in found["values"]], Fetch(**found["fetch"])
        except (OSError, ValueError, TypeError, KeyError):
            return [], None  # none yet, or of another version

    def _answer_of(self, zone: str) -> Path | None:
        digest = hashlib.sha256(zone.encode("utf-8", "backslashreplace")).hexdigest()[:8]
        return None if self._path is None else self._path.with_name(f"{self._path.stem}-{digest}.answer")

    def leave(self) -> None:
        """Give the turn back."""
        if self._lock is not None:
            self._lock.leave()


def _value_of(kept: Mapping[str, Any]) -> IntensityValue:
    instants = {
        name: None if kept[name] is None else datetime.fromisoformat(kept[name])
        for name in ("start", "end", "fetched_at")
    }
    return IntensityValue(**{**kept, **instants})


@dataclass(frozen=True, slots=True)
class Source:
    """Who is asked for a run's intensities, and behind which gate.

    Attributes:
        is_offline: nothing may go out: what others have learnt before is all there is.
    """

    choice: ProviderChoice
    gate: Gate
    is_offline: bool

    @property
    def name(self) -> str:
        return self.choice.provider.profile.name

    @property
    def is_local(self) -> bool:
        return self.name == LOCAL


def source_of(
    settings: Settings, choice: IntensityChoice, environ: Mapping[str, str] = os.environ
) -> tuple[Source | None, str]:
    """The source that the settings configure for a run, and what must be said of it; in the caller's thread.

    Without a provider, a file or a token there is none, and nothing is imported.
    """
    if settings.intensity_g_per_kwh is not None:
        both = [name for name in ("provider", "intensity_file") if getattr(settings, name) is not None]
        said = f"intensity_g_per_kwh is set and holds: {' and '.join(both)} is not used" if both else ""
        return None, said
    if not has_grid(settings, environ):
        return None, ""
    try:
        source = make_source(
            "" if choice.zone is None else choice.zone.zone,
            named=settings.provider,
            intensity_file=settings.intensity_file,
            offline=settings.offline,
            environ=environ,
        )
    except (ProviderError, SettingError) as exc:
        return None, f"{exc}; the static value is used"
    return source, "" if source is None else source.choice.provider.profile.notice


def make_source(
    zone: str, *, named: str | None, intensity_file: str | None, offline: bool, environ: Mapping[str, str]
) -> Source | None:
    """The source that serves a zone, with its gate; None: nobody is configured who does.

    Raises:
        ProviderError, SettingError: as provider_for.
    """
    from tracker.intensity.providers.registry import provider_for

    gates: list[Gate] = []

    def before_request() -> None:
        gates[0].manners.count(datetime.now(UTC).timestamp())
        gates[0].keep()

    found = provider_for(
        zone,
        named=named,
        intensity_file=None if intensity_file is None else Path(intensity_file),
        environ=environ,
        offline=offline,
        before_request=before_request,
    )
    if found is None:
        return None
    gates.append(Gate(found.provider.profile.name, environ))
    return Source(found, gates[0], offline)


class Feed:
    """What is known of the intensities that a run needs.

    The fetcher's thread asks and tells the other processes, the writer's thread is the one that meets the database, the
    program's closes it.
    """

    def __init__(self, source: Source, start: datetime, warn: Warn, writer: Callable[[], RunWriter | None]) -> None:
        self.source = source
        self.is_closed = False
        self.due_s = 0.0  # of the monotonic clock; the fetcher's
        self._start = start
        self._warn = warn
        self._writer = writer
        self._lock = threading.RLock()  # reentrant, as all locks that a handler may meet
        self._values: dict[Any, IntensityValue] = {}
        self._last: Fetch | None = None

    @property
    def period_s(self) -> float:
        return max(MIN_PERIOD_S, self.source.choice.provider.profile.min_interval_s)

    def values(self, until: datetime) -> list[IntensityValue]:
        """All that is known of the run's time up to now, holes filled where they are short."""
        if self.source.is_local:
            self._read_file(until)
        else:
            self.look()
        with self._lock:
            values = list(self._values.values())
        return [*values, *filled(values, self._start, until)] if values else []

    def look_beside(self) -> None:
        """Take in what the other processes of this machine have learnt of this source."""
        values, last = self.source.gate.shared(self._zone)
        self._keep(values, last)

    def look(self) -> None:
        """Take in what the processes that use this database have learnt of it, on whichever machine."""
        writer = self._writer()
        if writer is None:
            return
        try:
            found, last = writer.known_intensities(self.source.name, self._zone, *self._wanted())
        except StoreError:
            return  # what is known stays known
        self._keep(found, last)

    def age_s(self, now: datetime) -> float:
        """How long ago somebody asked the source for what this run needs; infinite: nobody has."""
        last = self._last
        # What lies before the run is there to fill a hole: whoever has begun a moment later has asked for enough.
        needed = max(self._start, now - FURTHEST_BACK + LONGEST_HOLE)
        if last is None or last.start_unix_us > unix_us_of(needed):
            return float("inf")
        return (unix_us_of(now) - last.asked_unix_us) / MICROSECONDS_PER_S

    def ask(self, now: datetime) -> Answer:
        """Ask the source, and tell the other processes of this machine; in one's turn.

        Raises:
            ProviderError: it gives no answer that can be used.
        """
        start, end = self._wanted(now)
        answer = self.source.choice.provider.fetch(self._zone, start, end)
        last = Fetch(unix_us_of(start), unix_us_of(end), unix_us_of(now))
        self.source.gate.share(self._zone, answer.values, last)
        self._keep(answer.values, last)
        return answer

    def take(self, answer: Answer) -> None:
        """Keep what the source has answered, for all who use the database."""
        for warning in answer.warnings:
            self._warn(f"grid {warning}", warning)
        writer = self._writer()
        if writer is None or self._last is None:
            return
        with contextlib.suppress(StoreError):  # they come in again with the pricing that uses them
            self._keep(writer.add_intensities(self.source.name, self._zone, answer.values, self._last))

    def failed(self, error: ProviderError) -> None:
        """Say that the source gave no answer; once per kind of trouble."""
        if not isinstance(error, OfflineError):
            self._warn(f"grid {self.source.name} {type(error).__name__}", f"{error}; the run goes on without")

    def close(self) -> None:
        """Want no more values, without waiting for a request that is under way."""
        self.is_closed = True
        self.source.gate.leave()

    def _read_file(self, until: datetime) -> None:
        # With what lies beside the run, for the holes at its ends.
        start, end = self._start - LONGEST_HOLE, until + LONGEST_HOLE
        try:
            answer = self.source.choice.provider.fetch(self._zone, start, end)
        except ProviderError as exc:
            self.failed(exc)
            return
        self._keep(answer.values)

    @property
    def _zone(self) -> str:
        return self.source.choice.zone

    def _wanted(self, now: datetime | None = None) -> tuple[datetime, datetime]:
        now = now or datetime.now(UTC)
        # From before the start: most sources tell a step when it is over, and the last one known stands in.
        return max(self._start - LONGEST_HOLE, now - FURTHEST_BACK), now

    def _keep(self, values: Sequence[IntensityValue], last: Fetch | None = None) -> None:
        with self._lock:
            for value in values:
                self._values[value.start, value.end, value.dataset, value.status] = value
            if last is not None and (self._last is None or last.asked_unix_us > self._last.asked_unix_us):
                self._last = last
