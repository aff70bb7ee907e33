"""When a source may be asked again, by all that ask it from this machine together."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Final

from tracker.errors import ProviderError, RateLimitedError, TemporaryError, UnauthorisedError, UnbelievableError

MOST_REQUESTS_PER_HOUR: Final = 40  # the smallest limit that a source is known to have is 50 (knowledge, grid 1)
QUICK_TRIES: Final = 4
_FIRST_PAUSE_S: Final = 2.0
_FIRST_CLOSED_S: Final = 30.0
_LONGEST_CLOSED_S: Final = 3600.0
_LONGEST_ASKED_S: Final = 86_400.0  # as a Retry-After may say
_HOUR_S: Final = 3600.0


@dataclass(slots=True)
class Manners:
    """What is remembered of a source.

    After a failure it is left alone for 2, 4, 8 and 16 s, then for 30 s doubling to an hour, or for as long as it asks
    for; half of each pause is drawn. A refused token closes it for an hour.

    Attributes:
        requests_s: the unix times of the requests of the last hour.
        failures: since the last answer.
        closed_until_s: unix time before which it is not asked.
        reason: why, for people.
    """

    requests_s: list[float] = field(default_factory=list)
    failures: int = 0
    closed_until_s: float = 0.0
    reason: str = ""

    @classmethod
    def read(cls, text: str) -> Manners:
        """What text() wrote; anything else is nothing remembered."""
        try:
            found = json.loads(text)
            return cls(
                requests_s=[float(time_s) for time_s in found["requests_s"]][-MOST_REQUESTS_PER_HOUR:],
                failures=int(found["failures"]),
                closed_until_s=float(found["closed_until_s"]),
                reason=str(found["reason"]),
            )
        except (ValueError, TypeError, KeyError, OverflowError):
            return cls()

    def text(self) -> str:
        return json.dumps(asdict(self))

    def pause_s(self, now_s: float) -> float:
        """How long to wait before it may be asked; 0.0: it may be now."""
        closed_s = self.closed_until_s - now_s
        if 0 < closed_s <= _LONGEST_ASKED_S:  # more: the clock was set back
            return closed_s
        recent = self._recent(now_s)
        return recent[0] + _HOUR_S - now_s if len(recent) >= MOST_REQUESTS_PER_HOUR else 0.0

    def count(self, now_s: float) -> None:
        """Count one request that is about to go out.

        Raises:
            RateLimitedError: it would be one too many in this hour.
        """
        recent = self._recent(now_s)
        if len(recent) >= MOST_REQUESTS_PER_HOUR:
            raise RateLimitedError(
                f"not asked: {MOST_REQUESTS_PER_HOUR} requests within an hour are what we allow ourselves",
                retry_after_s=recent[0] + _HOUR_S - now_s,
            )
        self.requests_s = [*recent, now_s]

    def answered(self) -> None:
        """It has given an answer that can be used."""
        self.failures, self.closed_until_s, self.reason = 0, 0.0, ""

    def failed(self, error: ProviderError, now_s: float, drawn: float) -> None:
        """It has not.

        Args:
            drawn: uniformly from [0, 1).
        """
        if isinstance(error, UnauthorisedError):
            pause_s = _LONGEST_CLOSED_S
        elif isinstance(error, (TemporaryError, UnbelievableError)):
            self.failures += 1
            after_quick = self.failures - QUICK_TRIES - 1
            if after_quick < 0:
                longest_s = _FIRST_PAUSE_S * 2 ** (self.failures - 1)
            else:
                longest_s = min(_FIRST_CLOSED_S * 2 ** min(after_quick, 10), _LONGEST_CLOSED_S)
            pause_s = longest_s * (1 + drawn) / 2
            pause_s = max(pause_s, getattr(error, "retry_after_s", None) or 0.0)
        else:  # about one zone or one plan: the source itself is well
            return
        self.closed_until_s, self.reason = now_s + pause_s, str(error)

    def _recent(self, now_s: float) -> list[float]:
        return [time_s for time_s in self.requests_s if now_s - _HOUR_S < time_s <= now_s]
