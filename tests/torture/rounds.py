"""Many faults, several at a time, and what is to be told of them all."""

import contextlib
import os
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from torture.plans import Plan
from torture.referee import Bout, Meter, Round, Verdict

REPEATS = 3  # of a training that ended late, alone


@contextlib.contextmanager
def a_round(library: Path, folder: Path) -> Iterator[Round]:
    """What the faults of a round share, in a folder of their own."""
    (folder / "shared").mkdir()
    meter = Meter()
    meter.start()
    shared = Round(library, folder, _can_mount(folder), meter)
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(shared.state)
    try:
        yield shared
    finally:
        meter.stop()
        if before is None:
            del os.environ["XDG_STATE_HOME"]
        else:
            os.environ["XDG_STATE_HOME"] = before


def _can_mount(folder: Path) -> bool:
    """Whether this user may make a small file system."""
    if os.geteuid() != 0:
        return False
    place = folder / "mounted"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", str(place)], check=True)
    return True


@dataclass(slots=True)
class Tally:
    """What a round has come to.

    Attributes:
        late_once: numbers of those that ended late, but not when they were repeated alone.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    late_once: list[int] = field(default_factory=list)

    def bad(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.troubles()]

    def totals(self) -> str:
        all_of_them = self.verdicts
        started = [verdict for verdict in all_of_them if verdict.is_started]
        ended_before = len(all_of_them) - len(started)
        harmed = sum(bool(verdict.harms) or verdict.is_late for verdict in all_of_them)
        lines = {
            "runs started": f"{len(started)}"
            + (f" ({ended_before} more ended before their start)" * bool(ended_before)),
            "runs on record": f"{sum(verdict.is_on_record for verdict in started)}",
            "seconds lost at most": f"{max((verdict.lost_s for verdict in started), default=0.0):.2f}",
            "unmeasured at most": f"{max((verdict.unmeasured_s for verdict in started), default=0.0):.2f} s",
            "wrong statuses": f"{sum(bool(verdict.wrong_status) for verdict in all_of_them)}",
            "harmed children": f"{harmed}",
            "other faults": f"{sum(bool(verdict.faults) for verdict in all_of_them)}",
            "latest end": f"{max((verdict.late_s for verdict in all_of_them), default=0.0):.2f} s later than untracked",
            "late, but not alone": f"{len(self.late_once)}",
        }
        return "\n".join(f"{name:<22}{value}" for name, value in lines.items())

    def table(self) -> str:
        """A line for each kind of fault; a training has several."""
        by_kind: defaultdict[str, list[Verdict]] = defaultdict(list)
        for verdict in self.verdicts:
            for kind in verdict.plan.kinds():
                by_kind[kind].append(verdict)
        rows = [("fault", "runs", "on record", "lost s", "late s", "wrong status", "harmed", "other")]
        for kind, verdicts in sorted(by_kind.items()):
            started = [verdict for verdict in verdicts if verdict.is_started]
            rows.append(
                (
                    kind,
                    f"{len(started)}",
                    f"{sum(verdict.is_on_record for verdict in started)}",
                    f"{max((verdict.lost_s for verdict in started), default=0.0):.2f}",
                    f"{max(verdict.late_s for verdict in verdicts):.2f}",
                    f"{sum(bool(verdict.wrong_status) for verdict in verdicts) or '-'}",
                    f"{sum(bool(verdict.harms) or verdict.is_late for verdict in verdicts) or '-'}",
                    f"{sum(bool(verdict.faults) for verdict in verdicts) or '-'}",
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if not n else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )


def fight(
    shared: Round,
    plans: Iterable[Plan],
    at_once: int,
    tell: Callable[[Verdict], None] = lambda _: None,
    *,
    is_timed: bool = True,
) -> Tally:
    """All these faults, so many at a time.

    Args:
        tell: called with each verdict.
        is_timed: who ended late is tried again alone, since the machine was busy with the others.
    """
    tally = Tally()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for verdict in pool.map(lambda plan: Bout(shared, plan).fought(), plans):
                tally.verdicts.append(verdict)
                tell(verdict)
        except KeyboardInterrupt:  # what is known by then is told
            pool.shutdown(cancel_futures=True)
            return tally
    late = [verdict for verdict in tally.verdicts if is_timed and verdict.is_late and not verdict.harms]
    with contextlib.suppress(KeyboardInterrupt):
        for verdict in late:
            for nth in range(REPEATS):
                again = _again(shared, verdict.plan, nth)
                if not again.is_late:
                    tally.late_once.append(verdict.plan.number)
                    verdict.late_s = again.late_s
                    break
    return tally


def _again(shared: Round, plan: Plan, nth: int) -> Verdict:
    folder = Path(tempfile.mkdtemp(prefix=f"again-{plan.number}-{nth}-", dir=shared.folder))
    (folder / "shared").mkdir()
    other = Round(shared.library, folder, shared.can_mount, shared.meter)
    return Bout(other, plan).fought()


def kinds_of(plans: Sequence[Plan]) -> Counter[str]:
    return Counter(kind for plan in plans for kind in plan.kinds())
