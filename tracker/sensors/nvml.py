"""NVIDIA GPUs through NVML: the one module that imports pynvml (of the distribution nvidia-ml-py)."""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from tracker.machine import boottime_us
from tracker.records import Device, NotMeasured, Reading
from tracker.sensors import mig
from tracker.sensors.cuda import shown_uuids
from tracker.sensors.meter import AVERAGE_WINDOW_US, SUCCESS, Meter, MeterReading, Nvml, answer_of, code_of, text_of
from tracker.sensors.nvml_errors import NOT_SUPPORTED, UNINITIALIZED, Absence, absence_of, reason_of, rule_of
from tracker.sensors.processes import Ask, GpuUsers, ProcessTree
from tracker.sensors.protocol import GivenUpError, Inventory
from tracker.sensors.troubles import BackOff, Troubles
from tracker.sensors.visible import Board, Slice, select_boards
from tracker.settings import GpuChoice

logger = logging.getLogger(__name__)

_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"  # in a UUID that is no text
_TRIES: Final = 3
_PROBE_STEPS: Final = 4
_PROBE_STEP_S: Final = 0.001
_PROBE_MOVES: Final = 2  # one after the other
_PROBE_STEPS_A_PERIOD: Final = 4
_PROBE_LIMIT_US: Final = 200_000
_NO_BINDING: Final = Absence("the Python package nvidia-ml-py is missing", "pip install nvidia-ml-py")


@dataclass(slots=True)
class _Turn:
    """One call's way through the devices."""

    at: Device | None = None


class NvmlSensor:
    """Energy counter and power of NVIDIA GPUs.

    Args:
        nvml: pynvml, or what stands in for it. By default it is imported here, so in the caller's thread.
        gpus: which boards.
        environ: of the process whose work is measured.
        shown: as cuda.shown_uuids, of the same process.
        processes: whose use of the boards look tells of; by default this process and its descendants.
        clock_us: the sample clock.
        pause_s: sleeps that many seconds; open waits some ms to see whether the counters move at each read.
        dev: where the driver's device files are.
    """

    name = "nvml"

    def __init__(
        self,
        nvml: Nvml | None = None,
        *,
        gpus: GpuChoice = "visible",
        environ: Mapping[str, str] = os.environ,
        shown: Callable[[], Sequence[str] | None] = shown_uuids,
        processes: ProcessTree | None = None,
        clock_us: Callable[[], int] = boottime_us,
        pause_s: Callable[[float], None] = time.sleep,
        dev: Path = Path("/dev"),
    ) -> None:
        self._nvml = _binding() if nvml is None else nvml
        self._gpus = gpus
        self._environ = environ
        self._shown = shown
        self._users = GpuUsers(processes or ProcessTree(os.getpid()))
        self._clock_us = clock_us
        self._pause_s = pause_s
        self._dev = dev
        self._pid: int | None = None  # NVML is not safely inherited through fork: its state belongs to one process
        self._init_failure = SUCCESS  # why NVML could not be initialised again
        self._initialising = BackOff()
        self._meters: dict[str, Meter] = {}
        self._handles: dict[str, tuple[Any, ...]] = {}  # of what look looks at
        self._troubles = Troubles()
        self._moves_at_each_read: dict[str, bool] = {}  # by name; outlives close: it is a property of the board
        self._lock = threading.RLock()  # of the next two
        self._turn = _Turn()
        self._left_out: Device | None = None  # a call about it has not returned
        self._missed: Device | None = None  # the same until its return is told

    def open(self) -> Inventory:
        if self._gpus == "none":
            return _nothing(Absence('left out by gpus="none"', is_fault=False))
        nvml = self._nvml
        if nvml is None:
            return _nothing(_NO_BINDING)
        self._meters = {}
        self._troubles = Troubles()
        try:
            count = self._count(nvml)
        except nvml.NVMLError as exc:
            return _nothing(absence_of(code_of(exc), self._dev))
        if count == 0:
            return _nothing(Absence("the NVIDIA driver finds no GPU", is_fault=False))
        return self._inventory(nvml, count)

    def _count(self, nvml: Nvml) -> int:
        """How many boards there are; initialises NVML where it is not, or no longer.

        Raises:
            NVMLError: of the binding.
        """
        if self._pid == os.getpid():
            try:
                return nvml.nvmlDeviceGetCount()
            except nvml.NVMLError as exc:
                if code_of(exc) != UNINITIALIZED:
                    raise
        nvml.nvmlInit()
        self._pid = os.getpid()
        self._init_failure = SUCCESS
        return nvml.nvmlDeviceGetCount()

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        clock_us = self._clock_us
        before_us = clock_us()
        if self._pid != os.getpid():
            return [Reading(before_us) for _ in devices]
        if self._missed is not None and self._left_out is None:
            self._troubles.tell(self._missed, "answers again")
            self._missed = None
        readings = []
        turn, troubles = self._turn, self._troubles
        is_quiet = troubles.is_quiet and not self._initialising.due_us
        for device in devices:
            meter = self._meters.get(device.key)
            is_waiting = meter is None or (not is_quiet and troubles.is_waiting(device.key, before_us))
            if meter is None or is_waiting or not self._go_to(turn, device):
                readings.append(Reading(before_us))
                continue
            reading = meter.read()
            if self._turn is not turn:
                self._check(turn)
            power_mw, average_mw, counter_uj = reading
            if not is_quiet or power_mw is None or counter_uj is None:
                if power_mw is None and counter_uj is None:
                    reading = self._read_again(turn, devices, device, meter, reading, before_us)
                    power_mw, average_mw, counter_uj = reading
                if power_mw is not None or counter_uj is not None:
                    if self._initialising.due_us:
                        self._initialising = BackOff()
                    troubles.answered(device, meter.failure, has_counter=counter_uj is not None)
                if meter.shows_no_power:
                    troubles.shows_no_power(device)
            after_us = clock_us()
            readings.append(Reading((before_us + after_us) // 2, power_mw, counter_uj, average_mw))
            before_us = after_us
        self._go_to(turn, None)
        return readings

    def news(self) -> Sequence[str]:
        """As TellsOfDevices.news."""
        return self._troubles.news()

    def look(self, devices: Sequence[Device]) -> list[bool | None]:
        """As SeesProcesses.look."""
        if self._nvml is None or self._pid != os.getpid():
            return [None] * len(devices)
        ask = _asker(self._nvml)
        turn = self._turn
        in_use: list[bool | None] = []
        for device in devices:
            is_seen = not self._troubles.has(device.key) and self._go_to(turn, device)
            handles = self._handles.get(device.key, ())
            in_use.append(self._users.look(ask, device.key, handles) if is_seen else None)
        self._go_to(turn, None)
        return in_use

    def leave_out(self) -> str | None:
        """As LeavesDevicesOut.leave_out."""
        with self._lock:
            device = self._turn.at
            if device is None or self._left_out is not None:
                return None
            self._left_out = self._missed = device
            self._turn = _Turn()
        return f"GPU {device.attributes.get('index', device.key)} ({device.name})"

    def close(self) -> None:
        if self._left_out is not None:
            return  # a thread is still in NVML
        self._meters = {}
        self._handles = {}
        self._shut_down()
        self._pid = None

    def _go_to(self, turn: _Turn, device: Device | None) -> bool:
        """Note which device a call is at, None at its end; false where the device is left out.

        Raises:
            GivenUpError: as in _check.
        """
        with self._lock:
            if self._turn is not turn:
                self._check(turn)
            turn.at = device
            return device is None or self._left_out is None or self._left_out.key != device.key

    def _check(self, turn: _Turn) -> None:
        """Notice that a call has been overtaken.

        Raises:
            GivenUpError: it has. The device that it was at is no longer left out.
        """
        with self._lock:
            if self._turn is not turn:
                self._left_out = None
                raise GivenUpError

    def _read_again(
        self, turn: _Turn, devices: Sequence[Device], device: Device, meter: Meter, reading: MeterReading, now_us: int
    ) -> MeterReading:
        """What a GPU gives after all whose reading has just given nothing, if anything helps."""
        reading = self._insist(turn, device, meter, reading)
        if reading[0] is None and reading[2] is None and self._mend(turn, devices, device, meter, now_us):
            reading = meter.read()
            self._check(turn)
            reading = self._insist(turn, device, meter, reading)
        return reading

    def _insist(self, turn: _Turn, device: Device, meter: Meter, reading: MeterReading) -> MeterReading:
        """A reading, asked for again at once where it fails for the first time, in a way that may pass."""
        for _ in range(_TRIES - 1):
            is_nothing = reading[0] is None and reading[2] is None
            may_pass = meter.failure != SUCCESS and rule_of(meter.failure).action == "wait"
            if not is_nothing or not may_pass or self._troubles.has(device.key):
                break
            reading = meter.read()
            self._check(turn)
        return reading

    def _mend(self, turn: _Turn, devices: Sequence[Device], device: Device, meter: Meter, now_us: int) -> bool:
        """Do what helps a GPU that has not answered: nothing yet, or look it up anew, or begin with NVML anew.

        Returns:
            Whether to read it once more: NVML was shut down by others, maybe just before the run's end.
        """
        nvml = self._nvml
        assert nvml is not None
        failure = meter.failure
        if failure == SUCCESS or not self._troubles.failed(device, self._init_failure or failure, now_us):
            return False
        action = rule_of(failure).action
        # Where no GPU answers, the driver may have been loaded anew. No living one is disturbed by a new beginning.
        is_dead = action == "wait" and self._troubles.have_all([one.key for one in devices])
        has_begun = False
        if (action == "init" or is_dead) and now_us >= self._initialising.due_us:
            self._initialising.failed(now_us)
            has_begun = self._begin_again(nvml, is_shut_down=failure == UNINITIALIZED)
            self._check(turn)
        handle = _handle_of(nvml, device)
        self._check(turn)
        if handle is not None:
            meter.rebind(handle)
            if len(self._handles.get(device.key, ())) == 1:
                self._handles[device.key] = (handle,)
        return has_begun

    def _begin_again(self, nvml: Nvml, *, is_shut_down: bool) -> bool:
        """Initialise NVML anew; false where that fails."""
        if not is_shut_down:  # by somebody else in this process, who has taken our share of it too
            self._shut_down()
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as exc:
            self._init_failure = code_of(exc)
            return False
        self._init_failure = SUCCESS
        return True

    def _shut_down(self) -> None:
        if self._nvml is None or self._pid != os.getpid() or self._init_failure != SUCCESS:
            return
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as exc:
            logger.debug("nvmlShutdown: %s", exc)

    def _inventory(self, nvml: Nvml, count: int) -> Inventory:
        handles: dict[int, Any] = {}
        partitions: dict[int, mig.Partition] = {}
        boards = []
        faults: dict[int, int] = {}
        ask = _asker(nvml)
        for index in range(count):
            try:
                handle = handles[index] = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError as exc:
                faults[index] = code_of(exc)
                boards.append(Board(index))
            else:
                partition = mig.partition_of(ask, handle)
                if partition is not None:
                    partitions[index] = partition
                boards.append(
                    Board(
                        index,
                        uuid=text_of(answer_of(nvml, "nvmlDeviceGetUUID", handle)),
                        name=text_of(answer_of(nvml, "nvmlDeviceGetName", handle)),
                        pci_bus=text_of(getattr(answer_of(nvml, "nvmlDeviceGetPciInfo", handle), "busId", "")),
                        compute_slices=partition.compute_slices if partition else None,
                        slices=partition.slices if partition else (),
                    )
                )
        shown = self._shown() if self._gpus == "visible" else None
        selection = select_boards(boards, self._gpus, self._environ, shown)
        if not selection.boards:
            return Inventory(not_measured=(NotMeasured("gpu", "GPU", selection.reason),), warnings=selection.warnings)

        not_measured = []
        warnings = list(selection.warnings)
        found: list[tuple[Board, str, Meter]] = []
        keys = _keys(boards)
        for board in selection.boards:
            key = keys[board.index]
            name = f"GPU {board.index}, {board.name}" if board.name else f"GPU {board.index}"
            if board.index in faults:
                code = faults[board.index]
                reason, remedy = f"no answer, {reason_of(code)}", rule_of(code).remedy.format(gpu=board.index)
                not_measured.append(NotMeasured("gpu", name, reason, remedy))
                warnings.append(f"{name}: {reason}")
                continue
            meter = Meter(nvml, handles[board.index], board.name)
            if meter.has_power or meter.has_counter:
                found.append((board, key, meter))
                self._meters[key] = meter
                self._handles[key] = _watched(board, handles, partitions, selection.slices)
            elif meter.why_not == NOT_SUPPORTED:
                reason = "neither power nor energy is supported by this GPU and its driver"
                not_measured.append(NotMeasured("gpu", name, reason, key=key))
            else:
                reason = f"power and energy are refused: {reason_of(meter.why_not)}"
                not_measured.append(NotMeasured("gpu", name, reason, rule_of(meter.why_not).remedy, key))
                warnings.append(f"{name}: {reason}")
        self._probe_counters()
        system = {
            "driver": text_of(answer_of(nvml, "nvmlSystemGetDriverVersion")),
            "nvml": text_of(answer_of(nvml, "nvmlSystemGetNVMLVersion")),
        }
        devices = tuple(
            self._device(board, key, meter, system, selection.slices.get(board.index, ()))
            for board, key, meter in found
        )
        return Inventory(devices, tuple(not_measured), tuple(warnings))

    def _device(
        self, board: Board, key: str, meter: Meter, system: Mapping[str, str], slices: Sequence[Slice]
    ) -> Device:
        sensor = meter.sensor_class
        notes = []
        if meter.is_module:  # Zeus PR 172: the counter of a GH200 is that of the whole module
            notes.append("covers the whole module: GPU, CPU and their memory")
        elif meter.is_superchip:
            notes.append("power is that of the GPU alone; the counter of such a module may cover CPU and memory too")
        mig_attributes: Mapping[str, str] = {}
        if slices:
            mig_attributes, note = mig.label(slices, board.compute_slices)
            notes.append(note)
        attributes = {
            "index": str(board.index),
            "uuid": board.uuid,
            "pci_bus": board.pci_bus,
            "architecture": sensor.architecture,
            **system,
            "power_source": meter.power_source,
            "power_period_us": str(sensor.period_us),
            "scope": "module" if meter.is_module else "gpu",
            # Zeus PR 172: the counter of a GH200 is that of the whole module, whatever its power is of.
            **({"covers": "gpu, host"} if meter.is_module or (meter.is_superchip and meter.has_counter) else {}),
            "power_limit_mw": str(meter.limit_mw or ""),
            **mig_attributes,
        }
        counter_period_us = 0 if self._moves_at_each_read.get(meter.name) else sensor.period_us
        return Device(
            kind="gpu",
            key=key,
            name=board.name or f"GPU {board.index}",
            sensor=self.name,
            has_counter=meter.has_counter,
            has_power=meter.has_power,
            counter_period_us=counter_period_us if meter.has_counter else None,
            power_window_us={
                "instant": sensor.instant_window_us,
                "average": AVERAGE_WINDOW_US,
                "usage": sensor.usage_window_us,
            }.get(meter.power_source),
            max_power_mw=meter.max_power_mw,
            attributes={name: text for name, text in attributes.items() if text},
            notes=tuple(notes),
        )

    def _probe_counters(self) -> None:
        """See whether counters move at each read, as simulated and some real ones do, or only now and then.

        Boards of one name are alike: one of each is probed.
        """
        for meter in self._meters.values():
            if meter.has_counter and meter.name not in self._moves_at_each_read:
                self._moves_at_each_read[meter.name] = self._moves_in_each_step(meter)

    def _moves_in_each_step(self, meter: Meter) -> bool:
        """Whether the counter moves within a few ms, time and again.

        One that is refreshed each 20 or 100 ms does so once, by chance, but not in two steps in a row that are shorter
        than a quarter of that. Any board in operation uses several mJ in a step of 1 ms. A step that the machine has
        drawn out beyond that says nothing; where all are (very slow calls), the class's period stands.
        """
        longest_us = meter.sensor_class.period_us // _PROBE_STEPS_A_PERIOD
        limit_us = self._clock_us() + _PROBE_LIMIT_US
        moves = looked = 0
        before_uj, before_us = meter.read()[2], self._clock_us()
        while looked < _PROBE_STEPS and moves < _PROBE_MOVES and before_us < limit_us:
            self._pause_s(_PROBE_STEP_S)
            counter_uj, now_us = meter.read()[2], self._clock_us()
            if now_us - before_us <= longest_us and counter_uj is not None and before_uj is not None:
                looked += 1
                moves = moves + 1 if counter_uj > before_uj else 0
            else:
                moves = 0
            before_uj, before_us = counter_uj, now_us
        return moves >= _PROBE_MOVES


def _binding() -> Nvml | None:
    try:
        return cast(Nvml, importlib.import_module("pynvml"))
    except ImportError as exc:
        logger.debug("pynvml: %s", exc)
        return None


def _asker(nvml: Nvml) -> Ask:
    def ask(function: str, *arguments: Any) -> Any:
        answer = answer_of(nvml, function, *arguments)
        return text_of(answer) if isinstance(answer, bytes) else answer

    return ask


def _watched(
    board: Board,
    handles: Mapping[int, Any],
    partitions: Mapping[int, mig.Partition],
    chosen: Mapping[int, Sequence[Slice]],
) -> tuple[Any, ...]:
    """The handles whose process lists tell who uses a board: in MIG mode they are kept with its devices."""
    partition = partitions.get(board.index)
    if partition is None:
        return (handles[board.index],)
    wanted = chosen.get(board.index, partition.slices)
    return tuple(handle for one, handle in zip(partition.slices, partition.handles, strict=True) if one in wanted)


def _keys(boards: Sequence[Board]) -> dict[int, str]:
    """A key for each board, by index: its UUID, else its place on the bus, and never that of another board."""
    keys: dict[int, str] = {}
    for board in boards:
        wanted = (board.uuid, board.pci_bus, f"gpu-{board.index}")
        keys[board.index] = next(key for key in wanted if key and key not in keys.values())
    return keys


def _handle_of(nvml: Nvml, device: Device) -> Any:
    """The handle that a GPU has now, None where it is not found. One that has no UUID of its own goes by its place."""
    if device.key == device.attributes.get("uuid") and _REPLACED not in device.key:
        return answer_of(nvml, "nvmlDeviceGetHandleByUUID", device.key)
    return answer_of(nvml, "nvmlDeviceGetHandleByPciBusId", device.attributes.get("pci_bus", ""))


def _nothing(absence: Absence) -> Inventory:
    warnings = (f"GPU: {absence.reason}",) if absence.is_fault else ()
    return Inventory(not_measured=(NotMeasured("gpu", "GPU", absence.reason, absence.remedy),), warnings=warnings)
