"""The energy of a run's devices as readings come in: slot by slot, and between the instants of its spans."""

from __future__ import annotations

import copy
import math
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from tracker.energy import SLOT_US, EdgeEnergy, Findings, Rules, Stream, rules_of, slot_edges
from tracker.records import Device, Method, Samples, Slot, Span
from tracker.session.account import DeviceAccount
from tracker.session.edges import End, end_of, start_of
from tracker.session.inbox import OpenSpan
from tracker.store.codec import hot_rows, samples_of_hot
from tracker.units import MICROSECONDS_PER_S, NANOJOULES_PER_J, joules_of_twice_nj

if TYPE_CHECKING:
    from tracker.records import IntColumn

# A counter that is refreshed now and then cannot resolve a run of a few of its periods: power × time does it better.
SHORTEST_RUN_PERIODS: Final = 10
# Counter and power of one board agree within 1 % where all is well (knowledge, measurement 1.1).
DISAGREEMENT_SHARE: Final = 0.1
DISAGREEMENT_MIN_US: Final = 2 * MICROSECONDS_PER_S
NOISE_FACTOR: Final = 3
STUCK_READINGS: Final = 60  # power of a real board differs by some mW from one reading to the next
SLOT_S: Final = SLOT_US // MICROSECONDS_PER_S


@dataclass(frozen=True, slots=True)
class Sealed:
    """New readings of one device, and the instant up to which its slots hold its energy (None: none of it)."""

    device_index: int
    samples: Samples
    settled_us: int | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What one pass over new readings gave: the readings, what they add to slots, the spans now known."""

    sealed: Sequence[Sealed]
    slots: Sequence[Slot]
    spans: Sequence[Span]


class DeviceLedger:
    """One device's slots within the run. They grow by one entry per 5 minutes, and by nothing per reading."""

    def __init__(self, device: Device, index: int, gap_us: int | None) -> None:
        self.device = device
        self.index = index
        self.findings = Findings()
        self.total_twice_nj = 0
        self.total_covered_us = 0
        self.cumulative: dict[int, tuple[int, int]] = {}  # totals at instants: twice the energy in nJ, covered µs
        self._rules = rules_of(device, gap_us)
        self._stream = Stream(self._rules)
        self._oldest_us: int | None = None
        self._start_us = 0
        self._first_power_mw: int | None = None
        self._last_power_mw: int | None = None
        self._last_power_us = 0
        self._trapezoid_noise_nj2 = 0.0  # variance of the trace's integral
        self._start_s = array("q")
        self._twice_energy_nj = array("q")
        self._covered_us = array("q")
        self._max_power_mw = array("q")  # -1: unknown
        self._changes: dict[int, Slot] = {}
        self._start = End()
        self._end = End()

    def copy(self) -> DeviceLedger:
        """One that can be taken further without touching this one."""
        other = copy.copy(self)
        other._stream = copy.deepcopy(self._stream)
        other.cumulative = dict(self.cumulative)
        for name in ("_start_s", "_twice_energy_nj", "_covered_us", "_max_power_mw"):
            setattr(other, name, array("q", getattr(self, name)))
        other._changes = {}
        return other

    @property
    def settled_us(self) -> int | None:
        """The slots hold this device's energy up to here; None: none of it yet."""
        return self._stream.settled_until_us

    @property
    def has_samples(self) -> bool:
        return self._oldest_us is not None

    def push(
        self, samples: Samples, instants_us: Sequence[int], unix_offset_us: int, stop_us: int | None = None
    ) -> None:
        """Take new readings and settle what can be settled, cut at the slots and at instants that increase."""
        has_both = self._rules.has_counter and self._rules.has_power
        if self._oldest_us is None:
            self._oldest_us = int(samples.t_us[0])
            if has_both:
                self._start = start_of(samples, instants_us[0], self._period_us, self._rules)
        if stop_us is not None and has_both and self._end.stretch is None:
            self._end = end_of(samples, stop_us, self._period_us, self._rules)
        self._note_power(samples.t_us[samples.power_known], samples.power_mw[samples.power_known])
        edges_us = self._edges(int(samples.t_us[-1]), instants_us, unix_offset_us)
        self._keep(self._stream.push(samples, edges_us), instants_us, unix_offset_us, stop_us)

    def finish(
        self,
        instants_us: Sequence[int],
        unix_offset_us: int,
        newest_us: int,
        stop_us: int,
        *,
        has_whole_run: bool = True,
    ) -> None:
        """Settle the rest, up to the run's end; has_whole_run: the first reading pushed is the run's first."""
        if not self.has_samples:
            return
        edges_us = self._edges(newest_us, instants_us, unix_offset_us)
        self._keep(self._stream.finish(edges_us), instants_us, unix_offset_us, stop_us)
        for instant_us in instants_us:  # those after its last reading: nothing more is known of it
            self.cumulative.setdefault(instant_us, (self.total_twice_nj, self.total_covered_us))
        if has_whole_run:
            self._correct_edges()

    def judge_by_power(self) -> None:
        """Leave the counter out. Only before anything is pushed."""
        self._rules = replace(self._rules, has_counter=False)
        self._stream = Stream(self._rules)

    def take_changes(self) -> list[Slot]:
        """What has been added to slots since the last time."""
        changes, self._changes = self._changes, {}
        return list(changes.values())

    def account(self) -> DeviceAccount:
        """The device's energy as it stands."""
        findings = self.findings
        by_counter = findings.counter_us > 0 and 2 * findings.counter_us >= self.total_covered_us
        method: Method = "model" if self.device.sensor == "model" else "counter" if by_counter else "power"
        counter_j = joules_of_twice_nj(findings.compared_counter_twice_nj)
        power_j = joules_of_twice_nj(findings.compared_power_twice_nj)
        expected_j = max(DISAGREEMENT_SHARE * max(power_j, counter_j), self._noise_j())
        disagrees = findings.compared_us >= DISAGREEMENT_MIN_US and abs(power_j - counter_j) > expected_j
        notes = [*self.device.notes, *_notes(findings, self._rules)]
        if disagrees:
            watts = MICROSECONDS_PER_S / findings.compared_us
            notes.append(
                f"counter and power disagree: {counter_j * watts:.4g} W and {power_j * watts:.4g} W on average;"
                f" the {method} is used"
            )
        if self.device.has_counter and not self._rules.has_counter:
            notes.append("the run is too short for the counter's refresh period: power is used")
        other_j = power_j - counter_j if method == "counter" else counter_j - power_j
        largest_mw = max(self._max_power_mw, default=-1)
        is_level = self.total_twice_nj == 2 * largest_mw * self.total_covered_us
        if self.device.sensor == "nvml" and method == "power" and is_level and findings.samples >= STUCK_READINGS:
            notes.append(f"each of its {findings.samples} power readings was the same: the sensor may be stuck")
        return DeviceAccount(
            device=self.device,
            start_s=_column(self._start_s),
            twice_energy_nj=_column(self._twice_energy_nj),
            covered_us=_column(self._covered_us),
            max_power_mw=largest_mw if largest_mw >= 0 else None,
            method=method,
            edge_j=self._edge_j() if method == "counter" else 0.0,
            disagreement_j=other_j if disagrees else 0.0,
            notes=tuple(notes),
            readings=findings.samples,
        )

    def _note_power(self, t_us: IntColumn, power_mw: IntColumn) -> None:
        """Keep the power at the run's ends, and how far a trace with such steps can be off.

        Where the load changes often between two readings h apart, each reading is a draw of its own. Neighbours that
        differ by D then have a variance of D²/2, and the sum of h·P one of h²·D²/2. (One step between two readings
        gives h²·D²/12, knowledge, measurement 3.6: this is the wider.)
        """
        if not len(t_us):
            return
        if self._first_power_mw is None:
            self._first_power_mw = int(power_mw[0])
        else:
            t_us = np.concatenate(([self._last_power_us], t_us))
            power_mw = np.concatenate(([self._last_power_mw or 0], power_mw))
        self._last_power_us, self._last_power_mw = int(t_us[-1]), int(power_mw[-1])
        steps_nj = np.diff(t_us).astype(np.float64) * np.diff(power_mw)
        self._trapezoid_noise_nj2 += float(np.dot(steps_nj, steps_nj)) / 2

    def _noise_j(self) -> float:
        return NOISE_FACTOR * math.sqrt(self._trapezoid_noise_nj2) / NANOJOULES_PER_J

    @property
    def _period_us(self) -> int:
        """The counter is refreshed this often: as was seen at the start, else as its kind of board does."""
        seen_us = self._start.period_us
        return (self.device.counter_period_us or 0) if seen_us is None else seen_us

    def _stale_nj(self, end: End, power_mw: int | None) -> int:
        """What the counter may not have shown yet at an end of the run; half of it is what it has not on average."""
        if end.stretch is not None or end.period_us == 0:
            return 0
        return max(0, self._period_us - end.still_us) * (end.power_mw or power_mw or 0)

    @property
    def _stale_start_nj(self) -> int:
        return self._stale_nj(self._start, self._first_power_mw)

    @property
    def _stale_end_nj(self) -> int:
        return self._stale_nj(self._end, self._last_power_mw)

    def _edge_j(self) -> float:
        """What the counter may not have shown at the run's two ends, half-widths."""
        known_j = sum(end.stretch.margin_j for end in (self._start, self._end) if end.stretch is not None)
        return (self._stale_start_nj + self._stale_end_nj) / 2 / NANOJOULES_PER_J + known_j

    def _correct_edges(self) -> None:
        """Add what the counter had not shown yet at the run's end, and take off what it had not at its start.

        Where that is known (`edges`), it is that. Else a counter refreshed every period shows, on average, the energy
        of half a period ago. At the device's own power that is period / 2 × power: as twice nanojoules period × power,
        an exact integer.
        """
        if not self.findings.counter_us or not self._start_s:
            return
        begun_nj = -self._stale_start_nj
        if (stretch := self._start.stretch) is not None:
            is_within = stretch.from_us >= self._start_us
            begun_nj = stretch.missing_twice_nj if is_within else -stretch.missing_twice_nj
        ended_nj = self._stale_end_nj
        if (stretch := self._end.stretch) is not None:
            ended_nj = -stretch.missing_twice_nj
        self._change(list(self._start_s), begun_nj)
        self._change(list(reversed(self._start_s)), ended_nj)

    def _change(self, slots_s: Sequence[int], change_nj: int) -> None:
        """Add to the first of these slots, or take off them, the first one first: none falls below 0."""
        for start_s in slots_s:
            part_nj = max(change_nj, -self._twice_energy_nj[self._position(start_s)])
            self._add(start_s, part_nj, 0, -1)
            change_nj -= part_nj
            if not change_nj:
                break

    def _edges(self, newest_us: int, instants_us: Sequence[int], unix_offset_us: int) -> IntColumn:
        oldest_us = self._oldest_us if self.settled_us is None else self.settled_us
        assert oldest_us is not None
        if newest_us <= oldest_us:
            return np.empty(0, np.int64)
        slots_us, _ = slot_edges(oldest_us, newest_us, unix_offset_us)
        stretches = [end.stretch for end in (self._start, self._end) if end.stretch is not None]
        bounds_us = [t_us for stretch in stretches for t_us in (stretch.from_us, stretch.until_us)]
        # Not np.union1d: it imports numpy.ma, and nothing may be imported in a thread of ours.
        return np.array(sorted({*slots_us.tolist(), *instants_us, *bounds_us}), dtype=np.int64)

    def _keep(self, energy: EdgeEnergy, instants_us: Sequence[int], unix_offset_us: int, stop_us: int | None) -> None:
        """Put settled intervals into their slots. The first instant is the run's start, its end is among them."""
        self.findings = self.findings + energy.findings
        edges_us = energy.edges_us.tolist()
        if not edges_us:
            return
        wanted = set(instants_us)
        start_us = self._start_us = instants_us[0]
        for instant_us in instants_us:
            if instant_us <= edges_us[0]:
                self.cumulative.setdefault(instant_us, (self.total_twice_nj, self.total_covered_us))
        for position, (from_us, to_us) in enumerate(pairwise(edges_us)):
            energy_nj = int(energy.twice_energy_nj[position])
            self._start = self._start.counting(from_us, to_us, energy_nj)
            self._end = self._end.counting(from_us, to_us, energy_nj)
            if from_us >= start_us and (stop_us is None or to_us <= stop_us):
                self._add(
                    (from_us + unix_offset_us) // SLOT_US * SLOT_S,
                    energy_nj,
                    int(energy.covered_us[position]),
                    int(energy.max_power_mw[position]),
                )
            if to_us in wanted:
                self.cumulative[to_us] = (self.total_twice_nj, self.total_covered_us)

    def _add(self, start_s: int, twice_energy_nj: int, covered_us: int, max_power_mw: int) -> None:
        position = self._position(start_s)
        self._twice_energy_nj[position] += twice_energy_nj
        self._covered_us[position] += covered_us
        self._max_power_mw[position] = max(self._max_power_mw[position], max_power_mw)
        self.total_twice_nj += twice_energy_nj
        self.total_covered_us += covered_us
        before = self._changes.get(start_s, Slot(self.index, start_s, 0, 0, None))
        self._changes[start_s] = replace(
            before,
            twice_energy_nj=before.twice_energy_nj + twice_energy_nj,
            covered_us=before.covered_us + covered_us,
            max_power_mw=before.max_power_mw if max_power_mw < 0 else max(max_power_mw, before.max_power_mw or 0),
        )

    def _position(self, start_s: int) -> int:
        """Where a slot stands; nearly always last. After a step of the wall clock it may be an earlier one."""
        for position in range(len(self._start_s) - 1, -1, -1):
            if self._start_s[position] == start_s:
                return position
            if self._start_s[position] < start_s:
                break
        self._start_s.append(start_s)
        self._twice_energy_nj.append(0)
        self._covered_us.append(0)
        self._max_power_mw.append(-1)
        return len(self._start_s) - 1


class Ledger:
    """All devices of a run, and its spans. Used by one thread.

    Args:
        gap_us: power readings farther apart say nothing about the time between.
    """

    def __init__(self, gap_us: int | None) -> None:
        self._gap_us = gap_us
        self._start_us = 0
        self._stop_us: int | None = None
        self._devices: dict[int, DeviceLedger] = {}
        self._payloads: list[bytes] = []
        self._spans: dict[int, OpenSpan] = {}

    def begin(self, start_us: int) -> None:
        """Fix the run's start on the sample clock; before anything is settled."""
        self._start_us = start_us

    def end(self, stop_us: int) -> None:
        """Fix the run's end: readings after it only place the energy before it."""
        self._stop_us = stop_us

    def add_device(self, index: int, device: Device) -> None:
        """Account for one more device."""
        self._devices[index] = DeviceLedger(device, index, self._gap_us)

    def take(self, payload: bytes, spans: Sequence[OpenSpan]) -> None:
        """Keep readings, as committed, and spans, as they stand, until they are settled."""
        if payload:
            self._payloads.append(payload)
        self._spans.update((span.span.id, span) for span in spans)

    def settle(self, unix_offset_us: int) -> Settlement:
        """Settle what has been taken, as far as it can be before more comes."""
        sealed = self._push(unix_offset_us)
        return Settlement(sealed, self._changes(), self._resolved_spans())

    def finish(self, unix_offset_us: int, stop_us: int) -> Settlement:
        """Settle all that has been taken, to the run's end."""
        self.end(stop_us)
        instants_us = self._instants_us()
        for ledger in self._devices.values():
            period_us = ledger.device.counter_period_us or 0
            is_short = stop_us - self._start_us < SHORTEST_RUN_PERIODS * period_us
            if is_short and ledger.device.has_power and not ledger.has_samples:
                ledger.judge_by_power()
        sealed = self._push(unix_offset_us)
        newest_us = {part.device_index: int(part.samples.t_us[-1]) for part in sealed}
        for index, ledger in self._devices.items():
            ledger.finish(instants_us, unix_offset_us, newest_us.get(index, stop_us), stop_us)
        sealed = [replace(part, settled_us=stop_us) for part in sealed]
        return Settlement(sealed, self._changes(), self._resolved_spans())

    def preview(self, unix_offset_us: int, now_us: int) -> list[DeviceAccount]:
        """The accounts as they would stand if the run ended now. Nothing here is changed by it."""
        other = Ledger(self._gap_us)
        other._start_us = self._start_us
        other._devices = {index: ledger.copy() for index, ledger in self._devices.items()}
        other._payloads = list(self._payloads)
        other.finish(unix_offset_us, now_us)
        return other.accounts()

    def accounts(self) -> list[DeviceAccount]:
        """The devices' energy as it stands, in the order of their indexes."""
        return [self._devices[index].account() for index in sorted(self._devices)]

    def _push(self, unix_offset_us: int) -> list[Sealed]:
        instants_us = self._instants_us()
        rows = hot_rows(b"".join(self._payloads))
        self._payloads = []
        sealed = []
        for index in sorted(set(rows[:, 0].tolist())):
            ledger = self._devices[index]
            samples = replace(samples_of_hot(ledger.device, rows[rows[:, 0] == index]), unix_offset_us=unix_offset_us)
            ledger.push(samples, instants_us, unix_offset_us, self._stop_us)
            sealed.append(Sealed(index, samples, ledger.settled_us))
        return sealed

    def _instants_us(self) -> list[int]:
        instants = {self._start_us} if self._stop_us is None else {self._start_us, self._stop_us}
        for span in self._spans.values():
            instants.add(span.start_us)
            if span.stop_us is not None:
                instants.add(span.stop_us)
        return sorted(instants)

    def _changes(self) -> list[Slot]:
        return [slot for ledger in self._devices.values() for slot in ledger.take_changes()]

    def _resolved_spans(self) -> list[Span]:
        """The ended spans whose energy is known for every measured device; they are kept here no longer."""
        ledgers = [item for item in self._devices.values() if item.has_samples and item.device.sensor != "model"]
        resolved = []
        for span_id, span in list(self._spans.items()):
            start_us, stop_us = span.start_us, span.stop_us
            if stop_us is None or not all(stop_us in ledger.cumulative for ledger in ledgers):
                continue
            del self._spans[span_id]
            begins = [ledger.cumulative[start_us] for ledger in ledgers]
            ends = [ledger.cumulative[stop_us] for ledger in ledgers]
            covered_us = sum(end[1] - begin[1] for begin, end in zip(begins, ends, strict=True))
            twice_energy_nj = sum(end[0] - begin[0] for begin, end in zip(begins, ends, strict=True))
            whole_us = len(ledgers) * (stop_us - start_us)
            resolved.append(
                replace(
                    span.span,
                    energy_j=joules_of_twice_nj(twice_energy_nj) if covered_us else None,
                    coverage=min(1.0, covered_us / whole_us) if whole_us else None,
                )
            )
        needed = set(self._instants_us())
        for ledger in self._devices.values():
            for instant_us in ledger.cumulative.keys() - needed:
                del ledger.cumulative[instant_us]
        return resolved


def _notes(findings: Findings, rules: Rules) -> Collection[str]:
    """What a reader of the figure must know of the readings behind it."""
    instead = "power is used there" if rules.has_power else "energy is unknown there"
    stood_still = findings.frozen + findings.unanchored
    counted = {
        "the counter restarted {}: " + instead: findings.resets,
        "the counter was beyond what the device can draw {}: " + instead: findings.implausible,
        "the counter may have wrapped unseen {}: that time is left out where power is unknown": findings.overlong,
        "an impossible power was read {}: those readings are left out": findings.rejected,
    }
    if rules.has_power:
        counted["the counter stood still {} while power was drawn: power is used there"] = stood_still
    elif stood_still and not findings.counter_us:
        counted["the counter stands still: a virtual machine may show a meter that it has not"] = stood_still
    else:
        counted["the counter stood still {}: energy is unknown there"] = stood_still
    notes = [text.format(_times(count)) for text, count in counted.items() if count]
    if not rules.has_counter and findings.step_us > 0 and findings.samples > 2:
        notes.append("readings are evenly spaced and there is no counter: aliasing with the load cannot be excluded")
    return notes


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _column(values: array[int]) -> IntColumn:
    return np.array(values, dtype=np.int64)
