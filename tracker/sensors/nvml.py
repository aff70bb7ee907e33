"""NVIDIA GPUs through NVML: the one module that imports pynvml (of the distribution nvidia-ml-py)."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from tracker.machine import boottime_us
from tracker.records import Device, NotMeasured, Reading
from tracker.sensors import mig
from tracker.sensors.cuda import shown_uuids
from tracker.sensors.meter import AVERAGE_WINDOW_US, SUCCESS, Meter, Nvml, answer_of, code_of, text_of
from tracker.sensors.processes import Ask, GpuUsers, ProcessTree
from tracker.sensors.protocol import Inventory
from tracker.sensors.visible import Board, Slice, select_boards
from tracker.settings import GpuChoice
from tracker.units import MICROSECONDS_PER_S

logger = logging.getLogger(__name__)

_PROBE_STEPS: Final = 4
_PROBE_STEP_S: Final = 0.001
_PROBE_MOVES: Final = 2
_PROBE_LONGEST_STEP_US: Final = 5_000
_PROBE_LIMIT_US: Final = 200_000


@dataclass(frozen=True, slots=True)
class _Absence:
    reason: str
    remedy: str = ""
    is_fault: bool = True  # false: there is simply no NVIDIA GPU


_ABSENCES: Final[Mapping[int, _Absence]] = {  # by nvmlReturn_t of nvmlInit
    4: _Absence("no permission to use the NVIDIA driver", "ls -l /dev/nvidia*, then join the group that may read them"),
    9: _Absence("the NVIDIA driver is installed but not loaded", "sudo modprobe nvidia"),
    12: _Absence("no NVIDIA driver here (libnvidia-ml.so.1 not found)", is_fault=False),
    18: _Absence("the NVIDIA driver was updated while the old one is loaded", "reboot, or reload the nvidia modules"),
    # NVIDIA/nvidia-container-toolkit issue 48: so it is in a container after `systemctl daemon-reload`.
    999: _Absence("the NVIDIA driver does not answer (unknown error)", "in a container: start a new one; else reboot"),
}
_NO_BINDING: Final = _Absence("the Python package nvidia-ml-py is missing", "pip install nvidia-ml-py")


_UNINITIALIZED: Final = 1
# INVALID_ARGUMENT (a stale handle), INSUFFICIENT_POWER, GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND: waiting a tick does
# not help. Other codes may pass by themselves.
_GONE: Final = frozenset({2, 8, 15, 16, 28})
_FAILURES_TOLD: Final = 3  # readings in a row
_FIRST_WAIT_US: Final = 1 * MICROSECONDS_PER_S
_LONGEST_WAIT_US: Final = 60 * MICROSECONDS_PER_S
_MOST_TOLD: Final = 4


@dataclass(slots=True)
class _Trouble:
    """A GPU that does not answer, and when it is asked again."""

    failures: int = 0  # in a row
    wait_us: int = 0
    retry_us: int = 0
    is_told: bool = False


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
    ) -> None:
        self._nvml = _binding() if nvml is None else nvml
        self._gpus = gpus
        self._environ = environ
        self._shown = shown
        self._users = GpuUsers(processes or ProcessTree(os.getpid()))
        self._clock_us = clock_us
        self._pause_s = pause_s
        self._pid: int | None = None  # NVML is not safely inherited through fork: its state belongs to one process
        self._meters: dict[str, Meter] = {}
        self._handles: dict[str, tuple[Any, ...]] = {}  # of what look looks at
        self._troubles: dict[str, _Trouble] = {}
        self._news: list[str] = []
        self._told: Counter[str] = Counter()  # news of a GPU
        self._moves_at_each_read: dict[str, bool] = {}  # by name; outlives close: it is a property of the board

    def open(self) -> Inventory:
        if self._gpus == "none":
            return _nothing(_Absence('left out by gpus="none"', is_fault=False))
        nvml = self._nvml
        if nvml is None:
            return _nothing(_NO_BINDING)
        self._meters = {}
        self._troubles = {}
        try:
            if self._pid != os.getpid():
                nvml.nvmlInit()
                self._pid = os.getpid()
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as exc:
            return _nothing(_ABSENCES.get(code_of(exc), _Absence(f"NVML: {exc}")))
        if count == 0:
            return _nothing(_Absence("the NVIDIA driver finds no GPU", is_fault=False))
        return self._inventory(nvml, count)

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        clock_us = self._clock_us
        before_us = clock_us()
        if self._pid != os.getpid():
            return [Reading(before_us) for _ in devices]
        readings = []
        for device in devices:
            meter = self._meters.get(device.key)
            trouble = self._troubles.get(device.key)
            if meter is None or (trouble is not None and before_us < trouble.retry_us):
                readings.append(Reading(before_us))
                continue
            power_mw, average_mw, counter_uj = meter.read()
            if meter.failure != SUCCESS and power_mw is None and counter_uj is None:
                self._has_failed(device, meter, before_us)
            elif trouble is not None:
                self._answers_again(device)
            after_us = clock_us()
            readings.append(Reading((before_us + after_us) // 2, power_mw, counter_uj, average_mw))
            before_us = after_us
        return readings

    def news(self) -> Sequence[str]:
        """As TellsOfDevices.news."""
        news, self._news = self._news, []
        return news

    def look(self, devices: Sequence[Device]) -> list[bool | None]:
        """As SeesProcesses.look."""
        if self._nvml is None or self._pid != os.getpid():
            return [None] * len(devices)
        ask = _asker(self._nvml)
        return [self._users.look(ask, device.key, self._handles.get(device.key, ())) for device in devices]

    def close(self) -> None:
        self._meters = {}
        self._handles = {}
        if self._nvml is not None and self._pid == os.getpid():
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError as exc:
                logger.debug("nvmlShutdown: %s", exc)
        self._pid = None

    def _has_failed(self, device: Device, meter: Meter, now_us: int) -> None:
        """Decide when a GPU that has not answered is asked again, and look it up anew where its handle may be stale.

        One that is off the bus can take seconds for each call, so it is not asked at every tick.
        """
        trouble = self._troubles.setdefault(device.key, _Trouble())
        trouble.failures += 1
        is_gone = meter.failure in _GONE
        if meter.failure != _UNINITIALIZED and not is_gone and trouble.failures < _FAILURES_TOLD:
            return
        trouble.wait_us = min(2 * trouble.wait_us or _FIRST_WAIT_US, _LONGEST_WAIT_US)
        trouble.retry_us = now_us + trouble.wait_us
        nvml = self._nvml
        assert nvml is not None
        if meter.failure == _UNINITIALIZED:  # somebody else in this process has shut NVML down, or the driver restarted
            trouble.retry_us = now_us
            answer_of(nvml, "nvmlInit")
        handle = answer_of(nvml, "nvmlDeviceGetHandleByUUID", device.attributes.get("uuid", ""))
        if handle is not None:
            meter.rebind(handle)
            if len(self._handles.get(device.key, ())) == 1:
                self._handles[device.key] = (handle,)
        if not trouble.is_told and (is_gone or trouble.failures >= _FAILURES_TOLD):
            trouble.is_told = True
            text = text_of(answer_of(nvml, "nvmlErrorString", meter.failure)) or "unknown error"
            self._tell(device, f"does not answer: {text} (NVML {meter.failure}); it is asked again from time to time")

    def _answers_again(self, device: Device) -> None:
        if self._troubles.pop(device.key).is_told:
            self._tell(device, "answers again")

    def _tell(self, device: Device, what: str) -> None:
        """Some times in a GPU's life; one that comes and goes all day would fill the record."""
        self._told[device.key] += 1
        if self._told[device.key] <= _MOST_TOLD:
            self._news.append(f"GPU {device.attributes.get('index', device.key)} ({device.name}) {what}")

    def _inventory(self, nvml: Nvml, count: int) -> Inventory:
        handles: dict[int, Any] = {}
        partitions: dict[int, mig.Partition] = {}
        boards = []
        faults = {}
        ask = _asker(nvml)
        for index in range(count):
            try:
                handle = handles[index] = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError as exc:
                faults[index] = str(exc)
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
        found: list[tuple[Board, Meter]] = []
        for board in selection.boards:
            name = board.name or f"GPU {board.index}"
            if board.index in faults:
                not_measured.append(NotMeasured("gpu", name, faults[board.index]))
                continue
            meter = Meter(nvml, handles[board.index], board.name)
            if meter.has_power or meter.has_counter:
                found.append((board, meter))
                self._meters[_key(board)] = meter
                self._handles[_key(board)] = _watched(board, handles, partitions, selection.slices)
            else:
                reason = "neither power nor energy is supported by this GPU and its driver"
                not_measured.append(NotMeasured("gpu", name, reason, key=_key(board)))
        self._probe_counters()
        system = {
            "driver": text_of(answer_of(nvml, "nvmlSystemGetDriverVersion")),
            "nvml": text_of(answer_of(nvml, "nvmlSystemGetNVMLVersion")),
        }
        devices = tuple(
            self._device(board, meter, system, selection.slices.get(board.index, ())) for board, meter in found
        )
        return Inventory(devices, tuple(not_measured), selection.warnings)

    def _device(self, board: Board, meter: Meter, system: Mapping[str, str], slices: Sequence[Slice]) -> Device:
        sensor = meter.sensor_class
        key = _key(board)
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

        One that is refreshed each 20 or 100 ms does so once, by chance. Any board in operation uses several mJ in a
        step of 1 ms. A step that the machine has drawn out says nothing; where all are (slow calls), the class's
        period stands.
        """
        limit_us = self._clock_us() + _PROBE_LIMIT_US
        moves = looked = 0
        before_uj, before_us = meter.read()[2], self._clock_us()
        while looked < _PROBE_STEPS and moves < _PROBE_MOVES and before_us < limit_us:
            self._pause_s(_PROBE_STEP_S)
            counter_uj, now_us = meter.read()[2], self._clock_us()
            if now_us - before_us <= _PROBE_LONGEST_STEP_US and counter_uj is not None and before_uj is not None:
                looked += 1
                moves += counter_uj > before_uj
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


def _key(board: Board) -> str:
    return board.uuid or board.pci_bus or f"gpu-{board.index}"


def _nothing(absence: _Absence) -> Inventory:
    warnings = (f"GPU: {absence.reason}",) if absence.is_fault else ()
    return Inventory(not_measured=(NotMeasured("gpu", "GPU", absence.reason, absence.remedy),), warnings=warnings)
