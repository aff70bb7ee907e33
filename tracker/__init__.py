"""Energy and emissions of GPU training runs: track them live, keep them, query them.

    with tracker.track("finetune", zone="FR") as run: ...
    tracker.runs(project="nlp"), tracker.totals(by="month"), tracker.get(run_id), tracker.compare(a, b)

Importing this loads nothing heavy; each name is fetched when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tracker.comparison import Comparison
    from tracker.curve import Outlook
    from tracker.errors import TrackerError
    from tracker.records import Repricing, Run, Samples, Total
    from tracker.session.live import LiveRun
    from tracker.session.outlook import intensity_of
    from tracker.session.past import get
    from tracker.session.queries import compare, runs, totals
    from tracker.session.repricing import reprice
    from tracker.session.track import Track, track

__version__ = "0.1.0.dev0"

_HOMES: Final = {
    "track": "tracker.session.track",
    "Track": "tracker.session.track",
    "LiveRun": "tracker.session.live",
    "runs": "tracker.session.queries",
    "totals": "tracker.session.queries",
    "get": "tracker.session.past",
    "compare": "tracker.session.queries",
    "reprice": "tracker.session.repricing",
    "intensity_of": "tracker.session.outlook",
    "Outlook": "tracker.curve",
    "Repricing": "tracker.records",
    "Run": "tracker.records",
    "Samples": "tracker.records",
    "Comparison": "tracker.comparison",
    "Total": "tracker.records",
    "TrackerError": "tracker.errors",
}

__all__ = [
    "Comparison",
    "LiveRun",
    "Outlook",
    "Repricing",
    "Run",
    "Samples",
    "Total",
    "Track",
    "TrackerError",
    "compare",
    "get",
    "intensity_of",
    "reprice",
    "runs",
    "totals",
    "track",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tracker' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
