"""What every provider of intensity is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from tracker.records import Basis, IntensityValue, Signal

Offer = Literal["history", "latest", "forecast"]


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a provider before it is asked.

    Attributes:
        name: as in TRACKER_PROVIDER and in TRACKER_<NAME>_URL and TRACKER_<NAME>_TOKEN.
        title: for people.
        serves: the zones it has, in words.
        accounting: production or consumption, in the sense of IntensityValue.
        licence: of the values, with the attribution it asks for.
        needs_token: it answers nobody without one.
        is_tested: its parser was tested on an answer that is the live service's own or stands in its documentation.
        untested: which of its requests no such answer proves; "" where none is left.
        min_interval_s: its values come, or may be asked for, no more often than this.
        final_after: a value this much older than its end is not corrected any more; None: it never becomes final.
        notice: what a user must be told before the first request; mostly "".
    """

    name: str
    title: str
    serves: str
    offers: frozenset[Offer]
    signal: Signal
    basis: Basis
    accounting: str
    licence: str
    needs_token: bool
    is_tested: bool
    min_interval_s: float
    final_after: timedelta | None
    untested: str = ""
    notice: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """Time [start, end) that a provider has no believable value for, and why."""

    start: datetime
    end: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider knows of a stretch of time.

    Attributes:
        values: whole steps of the source in order of time, none overlapping; the first and the last may reach
            beyond what was asked.
        gaps: the rest of what was asked, likewise.
        warnings: what must be said beside the values.
    """

    values: tuple[IntensityValue, ...]
    gaps: tuple[Gap, ...] = ()
    warnings: tuple[str, ...] = ()


class Provider(Protocol):
    """A source of intensity over time.

    It is made in the caller's thread, where it imports all it needs, and asked in a thread of its own.
    """

    @property
    def profile(self) -> Profile: ...

    def code_of(self, zone: str) -> str | None:
        """The provider's own code of a zone (or of one of its own codes); None: it does not serve it."""

    def fetch(self, zone: str, start: datetime, end: datetime) -> Answer:
        """The intensity over [start, end), as far as it is known.

        Args:
            zone: a code that code_of takes; the values carry it.
            start, end: aware.

        Returns:
            Values and gaps that together cover [start, end).

        Raises:
            ProviderError: and nothing else, whatever the source answers.
            ValueError: start is not before end, or one of them is naive.
        """
