"""Asks a source in the caller's own thread, with the same manners as the fetcher's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tracker.errors import OfflineError, ProviderError

if TYPE_CHECKING:
    from tracker.intensity.providers.protocol import Answer
    from tracker.session.feed import Source

_TURN_PATIENCE_S: Final = 30.0
_TURN_POLL_S: Final = 0.1
_WHAT_IS_KNOWN: Final = "what is known here is used"


class Asker:
    """Asks sources, each no more once it has failed.

    Args:
        say: takes what must be told.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._failed: set[tuple[str, str]] = set()

    def answers(
        self, source: Source, pieces: Callable[[datetime], Iterable[tuple[datetime, datetime]]]
    ) -> Iterator[Answer]:
        """What the source says of these stretches of time, one after another, as far as it answers.

        Args:
            pieces: given the present time.
        """
        key = source.name, source.choice.zone
        if key in self._failed:
            return
        if source.is_offline and not source.is_local:
            self._say(f"{source.name} is not asked, as TRACKER_OFFLINE is set: {_WHAT_IS_KNOWN}")
            self._failed.add(key)
            return
        if not self._take_turn(source):
            self._say(f"{source.name} is being asked by another process: {_WHAT_IS_KNOWN}")
            return
        try:
            for start, end in pieces(datetime.now(UTC)):
                answer = self._answer(source, start, end)
                if answer is None:
                    self._failed.add(key)
                    return
                for warning in answer.warnings:
                    self._say(warning)
                yield answer
        finally:
            source.gate.leave()

    def _take_turn(self, source: Source) -> bool:
        deadline_s = time.monotonic() + _TURN_PATIENCE_S
        while not source.gate.take():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_TURN_POLL_S)
        return True

    def _answer(self, source: Source, start: datetime, end: datetime) -> Answer | None:
        manners = source.gate.manners
        pause_s = manners.pause_s(datetime.now(UTC).timestamp())
        if pause_s > 0:
            reason = manners.reason or "it was asked often enough for this hour"
            self._say(f"{source.name} is left alone for {pause_s / 60:.0f} min ({reason}); try again then")
            return None
        try:
            answer = source.choice.provider.fetch(source.choice.zone, start, end)
        except ProviderError as exc:
            manners.failed(exc, datetime.now(UTC).timestamp(), 1.0)
            source.gate.keep()
            if not isinstance(exc, OfflineError):
                self._say(f"{exc}; {_WHAT_IS_KNOWN}")
            return None
        manners.answered()
        source.gate.keep()
        return answer
