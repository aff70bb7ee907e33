"""What stands in for a run where nothing is recorded. It loads nothing that only a recorded one needs."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tracker.records import Run, RunStatus

if TYPE_CHECKING:
    from tracker.session.judge import Judge


class Unrecorded:
    """Stands in where nothing is recorded: tracking is disabled, or could not be started."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def open_span(self, name: str, parent_id: int | None, attributes: Mapping[str, Any]) -> int:
        return 0

    def close_span(self, span_id: int) -> None:
        pass

    def judge_by(self, judge: Judge) -> None:
        pass

    def mark(self, values: Mapping[str, Any]) -> None:
        pass

    def snapshot(self) -> Run:
        return self._run

    def finish(self, status: RunStatus) -> Run:
        return self._run


def empty_run(name: str | None, tags: Mapping[str, str], status: RunStatus, warnings: tuple[str, ...]) -> Run:
    return Run(
        id=secrets.token_hex(8),
        name=name,
        project=None,
        tags=tags,
        status=status,
        started_at=None,
        ended_at=None,
        duration_s=0.0,
        energy_j=None,
        energy_modelled_j=None,
        emissions_g=None,
        emissions_modelled_g=None,
        pue=1.0,
        coverage=None,
        warnings=warnings,
    )
