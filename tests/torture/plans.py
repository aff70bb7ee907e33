"""Which faults there are, and the draw of one: how a training is tracked, what befalls it meanwhile and how it ends."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torture.program import AT_START, STEP_S

FORMS = ("with", "decorator", "handle", "spans", "command")
# How a run ends, and what its status is by DESIGN 2; several where the moment decides.
ENDS: dict[str, tuple[str, ...]] = {
    "return": ("finished",),
    "exception": ("failed",),
    "exit_n": ("failed",),
    "exit_none": ("finished",),
    "exit_text": ("failed",),
    "memory": ("failed",),
    "sigint": ("interrupted",),
    "sigterm": ("interrupted",),
    "sigterm_exit": ("failed",),
    "sigterm_flag": ("finished",),
    "sighup": ("interrupted",),
    "sigkill": ("interrupted",),
    "sigsegv": ("interrupted",),
    "os_exit": ("interrupted",),
    "exec": ("interrupted",),
    "daemon_thread": ("finished",),
    "sigkill_start": ("interrupted",),
    "sigint_start": ("interrupted",),
    "sigterm_start": ("interrupted",),
    "sigkill_stop": ("interrupted", "finished"),
    "sigint_stop": ("interrupted", "finished"),
    "sigterm_stop": ("interrupted", "finished"),
    "left_on": ("finished",),
    "left_on_exception": ("failed",),
    "left_on_sigint": ("interrupted",),
    "left_on_exit_n": ("finished",),
}
SIGNALS_TO_COMMAND = ("command_sigterm", "command_sigint", "command_sighup", "command_sigkill")
OWN_MIDDLES = (
    "fork_exit",
    "fork_raise",
    "fork_return",
    "fork_tracks",
    "fork_lives_on",
    "forks_many",
    "mp_fork",
    "mp_spawn",
    "pool",
    "subprocess",
    "gil_held",
    "stopped",
    "close_fds",
    "exhaust_fds",
    "file_limit",
    "user_handlers",
)
PLACES = (
    "missing folder",
    "shared",
    "no database",
    "a folder",
    "read-only",
    "link",
    "locked at start",
    "locked",
    "removed",
    "replaced",
    "folder removed",
    "full",
)
SENSORS = (
    "GPU call hangs",
    "GPU errors",
    "GPU lost",
    "NVML hangs at start",
    "NVML slow",
    "NVML slow at start",
    "RAPL vanishes",
)
# Where no file may grow any more, what comes after that is nowhere.
NO_ROOM = {"file_limit"}
# Ends that no handler of ours can see: what was not committed is lost.
ABRUPT = {"sigterm", "sighup", "sigkill", "sigsegv", "os_exit", "exec", "sigkill_stop", "sigterm_stop"}


@dataclass(frozen=True, slots=True)
class Plan:
    """One fault. Everything random about it is drawn here.

    Attributes:
        form: how the run is tracked.
        seconds: of the training.
        middles: what the program itself does meanwhile, at middle_step.
        place: what befalls the database, or "".
        sensor: what befalls a sensor, or "".
        end: how it ends, at end_step.
        moment_s: into what goes on: the start, the stop.
        trouble_s: from the run's first step to what befalls it from outside, and how long that lasts.
    """

    number: int
    form: str
    interval_s: float
    seconds: float
    middles: Sequence[str]
    middle_step: int
    middle_s: float
    place: str
    sensor: str
    end: str
    end_step: int
    moment_s: float
    trouble_at_s: float
    trouble_s: float
    power_mw: int

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    @property
    def statuses(self) -> tuple[str, ...]:
        """What may be on record of its end."""
        if self.form == "handle" and self.end in ("exit_n", "exit_text", "sigterm_exit"):
            return (
                "finished",
                *self._without_room,
            )  # never stopped: nobody in the process knows its exit code any more; the run says so
        return (*ENDS[self.end], *self._without_room)

    @property
    def _without_room(self) -> tuple[str, ...]:
        return ("interrupted",) if self.has_no_room else ()

    @property
    def is_held_up(self) -> bool:
        """Whether none of its threads can do anything for a while."""
        return not {"gil_held", "stopped"}.isdisjoint(self.middles)

    @property
    def has_nowhere_to_go(self) -> bool:
        """Whether a run whose database is taken away cannot move: its rows cannot be read, or no file be made."""
        return not {"close_fds", "exhaust_fds", "file_limit"}.isdisjoint(self.middles)

    @property
    def has_no_room(self) -> bool:
        return self.form != "command" and not NO_ROOM.isdisjoint(self.middles)

    @property
    def is_abrupt(self) -> bool:
        """Whether nothing of ours runs at its end."""
        return self.end in ABRUPT or self.end in ("command_sigkill", "sigkill_start", "sigterm_start")

    def kinds(self) -> list[str]:
        """What it counts as in the table."""
        return [self.end, *self.middles, *filter(None, (self.place, self.sensor)), f"by {self.form}"]

    def __str__(self) -> str:
        parts = [f"tracked by {self.form}", *self.middles, self.place, self.sensor, self.end]
        return ", ".join(filter(None, parts))


def drawn(seed: int, number: int, *, is_short: bool = False) -> Plan:
    """The fault of this number.

    Args:
        is_short: half a second and no troubles that take seconds, for the suite.
    """
    rng = random.Random(f"{seed} {number}")
    form = rng.choices(FORMS, (4, 2, 3, 2, 2))[0]
    end = rng.choice([end for end in ENDS if not end.startswith("left_on") or form == "handle"])
    if form == "command":
        # What concerns the tracker's own start and stop is another process's here.
        own = [e for e in ENDS if not e.startswith("left_on") and not e.endswith(("_start", "_stop"))]
        end = rng.choice([*own, *SIGNALS_TO_COMMAND])
    seconds = rng.uniform(0.4, 0.8) if is_short else rng.uniform(0.6, 3.2)
    steps = round(seconds / STEP_S)
    end_step = rng.randrange(steps // 3, steps)
    middles = rng.sample(OWN_MIDDLES, rng.choice((0, 1, 1, 2)))
    if end == "sigterm_flag" and "pool" in middles:  # whose workers inherit the handler, and are ended by that signal
        middles.remove("pool")
    if end in AT_START:  # the untracked one may have come to them by then
        middles = []
    place = rng.choice(PLACES) if rng.random() < 0.45 else ""
    sensor = rng.choice(SENSORS) if rng.random() < 0.3 else ""
    return Plan(
        number=number,
        form=form,
        interval_s=rng.choice((0.05, 0.2, 1.0, 1.0)),
        seconds=seconds,
        middles=middles,
        middle_step=rng.randrange(end_step + 1),
        middle_s=0.2 if is_short else rng.uniform(0.3, 2.5),
        place=place,
        sensor=sensor,
        end=end,
        end_step=end_step,
        moment_s=rng.uniform(0.0, 0.25),
        trouble_at_s=rng.uniform(0.0, seconds * 0.8),
        trouble_s=0.3 if is_short else rng.uniform(0.5, 7.0),
        power_mw=rng.randrange(60_000, 400_000),
    )
