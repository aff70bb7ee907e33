"""NVIDIA GPUs through NVML: the one module that imports pynvml (of the distribution nvidia-ml-py)."""

from __future__ import annotations

import ctypes
import importlib
import logging
import math
import os
import re
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from tracker.machine import boottime_us
from tracker.records import Device, NotMeasured, Reading
from tracker.sensors import mig
from tracker.sensors.cuda import shown_uuids
from tracker.sensors.processes import Ask, GpuUsers, ProcessTree
from tracker.sensors.protocol import Inventory
from tracker.sensors.visible import Board, Slice, select_boards
from tracker.settings import GpuChoice
from tracker.units import MICROJOULES_PER_MILLIJOULE, MICROSECONDS_PER_S, MILLIWATTS_PER_W

logger = logging.getLogger(__name__)

# Field ids, scopes and return codes: nvml.h of nvidia-nvml-dev 13.5.37.
_ENERGY: Final = 83
_AVERAGE: Final = 185
_INSTANT: Final = 186
_SCOPE_GPU: Final = 0
_SCOPE_MODULE: Final = 1
_SUCCESS: Final = 0
# INVALID_ARGUMENT (a field the driver is too old for), NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND,
# ARGUMENT_VERSION_MISMATCH, DEPRECATED: asking again gives the same answer. All other codes may pass.
_PERMANENT: Final = frozenset({2, 3, 4, 13, 25, 26})
# nvmlFieldValue_t: field, scope, timestamp, latency, valueType, nvmlReturn, value. Taken from the array at one go: an
# attribute of a ctypes structure costs as much (measured: ten of them per GPU were half of a reading).
_FIELD_LAYOUT: Final = "IIqqIIQ"
_FIELD_NUMBERS: Final = len(_FIELD_LAYOUT)
_VALUE_TYPE: Final = 4
_VALUE_CODES: Final = "dIQQqiH"  # by nvmlValueType_t, as struct reads the union's first bytes

# Boards do exceed their limit for milliseconds. Over twice of it a reading is a fault (g-helper PR 5819: 593 W where
# the limit is 175 W).
_MARGIN_OVER_LIMIT: Final = 2
_NO_BOARD_DRAWS_MW: Final = 10_000 * MILLIWATTS_PER_W  # also catches all-ones, which some drivers give with success
_MAX_COUNTER_MJ: Final = (2**63 - 1) // MICROJOULES_PER_MILLIJOULE

_PROBE_STEPS: Final = 4
_PROBE_STEP_S: Final = 0.001
_PROBE_MOVES: Final = 2
_PROBE_LONGEST_STEP_US: Final = 5_000
_PROBE_LIMIT_US: Final = 200_000


class Nvml(Protocol):
    """What is used of pynvml on every machine; the rest is asked for by name, since old bindings lack some of it."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class SensorClass:
    """How the boards of an architecture see their power.

    Attributes:
        period_us: power, and as far as is known the energy counter, is refreshed this often.
        instant_window_us: an instant reading is the mean of this long; None: unknown, or no plain mean.
        usage_window_us: the same for nvmlDeviceGetPowerUsage.

    Source: Yang, Adamek, Armour, arXiv 2312.02741; nvml.h at nvmlDeviceGetPowerUsage.
    """

    architecture: str
    period_us: int = 100_000
    instant_window_us: int | None = None
    usage_window_us: int | None = None


_AVERAGE_WINDOW_US: Final = MICROSECONDS_PER_S  # nvml.h: "averaged over 1 sec interval"
_GA100: Final = SensorClass("Ampere GA100", 100_000, 25_000, 25_000)
_CLASSES: Final[Mapping[int, SensorClass]] = {  # by nvmlDeviceArchitecture_t
    2: SensorClass("Kepler"),
    3: SensorClass("Maxwell"),
    4: SensorClass("Pascal", 20_000, 10_000, 10_000),
    5: SensorClass("Volta", 20_000, 10_000, 10_000),
    6: SensorClass("Turing", 100_000, 100_000, 100_000),
    7: SensorClass("Ampere", 100_000, 100_000, _AVERAGE_WINDOW_US),
    8: SensorClass("Ada", 100_000, 100_000, _AVERAGE_WINDOW_US),
    9: SensorClass("Hopper", 100_000, 25_000, _AVERAGE_WINDOW_US),
    10: SensorClass("Blackwell", 100_000, None, _AVERAGE_WINDOW_US),
    13: SensorClass("Rubin", 100_000, None, _AVERAGE_WINDOW_US),
}
_GA100_NAME: Final = re.compile(r"\b(A100X?|A30X?|A800)\b")


def sensor_class(architecture: int | None, name: str) -> SensorClass:
    """The class of a board. GA100 shares its architecture number with boards that measure otherwise."""
    if architecture is None:
        return SensorClass("unknown")
    if architecture == 7 and _GA100_NAME.search(name):
        return _GA100
    return _CLASSES.get(architecture, SensorClass(f"number {architecture}"))


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
        self._meters: dict[str, _Meter] = {}
        self._handles: dict[str, tuple[Any, ...]] = {}  # of what look looks at
        self._moves_at_each_read: dict[str, bool] = {}  # by name; outlives close: it is a property of the board

    def open(self) -> Inventory:
        if self._gpus == "none":
            return _nothing(_Absence('left out by gpus="none"', is_fault=False))
        nvml = self._nvml
        if nvml is None:
            return _nothing(_NO_BINDING)
        self._meters = {}
        try:
            if self._pid != os.getpid():
                nvml.nvmlInit()
                self._pid = os.getpid()
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as exc:
            return _nothing(_ABSENCES.get(_code(exc), _Absence(f"NVML: {exc}")))
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
            power_mw, average_mw, counter_uj = meter.read() if meter else (None, None, None)
            after_us = clock_us()
            readings.append(Reading((before_us + after_us) // 2, power_mw, counter_uj, average_mw))
            before_us = after_us
        return readings

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
                        uuid=_text(_ask(nvml, "nvmlDeviceGetUUID", handle)),
                        name=_text(_ask(nvml, "nvmlDeviceGetName", handle)),
                        pci_bus=_text(getattr(_ask(nvml, "nvmlDeviceGetPciInfo", handle), "busId", "")),
                        compute_slices=partition.compute_slices if partition else None,
                        slices=partition.slices if partition else (),
                    )
                )
        shown = self._shown() if self._gpus == "visible" else None
        selection = select_boards(boards, self._gpus, self._environ, shown)
        if not selection.boards:
            return Inventory(not_measured=(NotMeasured("gpu", "GPU", selection.reason),), warnings=selection.warnings)

        not_measured = []
        found: list[tuple[Board, _Meter]] = []
        for board in selection.boards:
            name = board.name or f"GPU {board.index}"
            if board.index in faults:
                not_measured.append(NotMeasured("gpu", name, faults[board.index]))
                continue
            meter = _Meter(nvml, handles[board.index], board.name)
            if meter.has_power or meter.has_counter:
                found.append((board, meter))
                self._meters[_key(board)] = meter
                self._handles[_key(board)] = _watched(board, handles, partitions, selection.slices)
            else:
                reason = "neither power nor energy is supported by this GPU and its driver"
                not_measured.append(NotMeasured("gpu", name, reason, key=_key(board)))
        self._probe_counters()
        system = {
            "driver": _text(_ask(nvml, "nvmlSystemGetDriverVersion")),
            "nvml": _text(_ask(nvml, "nvmlSystemGetNVMLVersion")),
        }
        devices = tuple(
            self._device(board, meter, system, selection.slices.get(board.index, ())) for board, meter in found
        )
        return Inventory(devices, tuple(not_measured), selection.warnings)

    def _device(self, board: Board, meter: _Meter, system: Mapping[str, str], slices: Sequence[Slice]) -> Device:
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
                "average": _AVERAGE_WINDOW_US,
                "usage": sensor.usage_window_us,
            }.get(meter.power_source),
            max_power_mw=meter.limit_mw and meter.limit_mw * _MARGIN_OVER_LIMIT,
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

    def _moves_in_each_step(self, meter: _Meter) -> bool:
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


class _Meter:
    """Reads one GPU with as few calls as its driver allows: one, where it has the field-values API.

    What the driver says it does not support is found out here, once, and not asked for again.
    """

    def __init__(self, nvml: Nvml, handle: Any, name: str) -> None:
        self._nvml = nvml
        self._handle = handle
        self.name = name
        self.sensor_class = sensor_class(self.ask("nvmlDeviceGetArchitecture"), name)
        self._call_fields: Callable[..., int] | None = None
        self._field_arguments: tuple[Any, ...] = ()
        self._layout = struct.Struct("")
        self._values: tuple[int, ...] = ()  # of all fields, as last read
        self._positions: dict[int, int] = {}  # by id of the field: where its numbers begin there
        c2c = self.ask("nvmlDeviceGetC2cModeInfoV")
        self.is_superchip = bool(getattr(c2c, "isC2cEnabled", 0))
        self.is_module = False  # power is that of the whole module
        self.limit_mw = self._largest_limit_mw()
        self._max_mw = self.limit_mw * _MARGIN_OVER_LIMIT if self.limit_mw else _NO_BOARD_DRAWS_MW
        self._prepare_fields()
        has_power_field = _INSTANT in self._positions or _AVERAGE in self._positions
        self._calls_usage = not has_power_field and self._is_supported("nvmlDeviceGetPowerUsage")
        self._calls_energy = _ENERGY not in self._positions and self._is_supported(
            "nvmlDeviceGetTotalEnergyConsumption"
        )
        self.has_power = has_power_field or self._calls_usage
        self.has_counter = _ENERGY in self._positions or self._calls_energy

    @property
    def power_source(self) -> str:
        """Where power_mw comes from, for as long as this meter lives: "instant", "average", "usage" or ""."""
        if _INSTANT in self._positions:
            return "instant"
        if _AVERAGE in self._positions:
            return "average"
        return "usage" if self._calls_usage else ""

    def ask(self, function: str) -> Any:
        """The answer of a query about this GPU, None where it fails."""
        return _ask(self._nvml, function, self._handle)

    def read(self) -> tuple[int | None, int | None, int | None]:
        """Power and its average in mW, and the counter in µJ."""
        power_mw = average_mw = counter_mj = None
        if self._call_fields is not None and self._call_fields(*self._field_arguments) == _SUCCESS:
            self._values = self._layout.unpack_from(self._field_arguments[-1])
            power_mw = self._field(_INSTANT)
            average_mw = self._field(_AVERAGE)
            counter_mj = self._field(_ENERGY)
        if self._calls_usage:
            power_mw = self.ask("nvmlDeviceGetPowerUsage")
        elif _INSTANT not in self._positions:
            power_mw, average_mw = average_mw, None
        if self._calls_energy:
            counter_mj = self.ask("nvmlDeviceGetTotalEnergyConsumption")
        if power_mw is not None and power_mw > self._max_mw:
            power_mw = None
        if average_mw is not None and average_mw > self._max_mw:
            average_mw = None
        if counter_mj is None or counter_mj > _MAX_COUNTER_MJ:
            return power_mw, average_mw, None
        return power_mw, average_mw, counter_mj * MICROJOULES_PER_MILLIJOULE

    def _prepare_fields(self) -> None:
        # pynvml's own nvmlDeviceGetFieldValues builds its array anew at each call: three times the cost (measured).
        library = getattr(self._nvml, "nvmlLib", None)
        value_type = getattr(self._nvml, "c_nvmlFieldValue_t", None)
        call = getattr(library, "nvmlDeviceGetFieldValues", None)
        if call is None or value_type is None or ctypes.sizeof(value_type) != struct.calcsize("=" + _FIELD_LAYOUT):
            return
        supported: dict[int, int] = {}
        for power_scope in (_SCOPE_MODULE, _SCOPE_GPU) if self.is_superchip else (_SCOPE_GPU,):
            wanted = {_INSTANT: power_scope, _AVERAGE: power_scope, _ENERGY: _SCOPE_GPU}
            array = self._field_array(value_type, wanted)
            if call(self._handle, len(array), array) in _PERMANENT:
                return
            supported = {value.fieldId: value.scopeId for value in array if value.nvmlReturn not in _PERMANENT}
            if _INSTANT in supported or _AVERAGE in supported:
                self.is_module = power_scope == _SCOPE_MODULE
                break
        if not supported:
            return
        array = self._field_array(value_type, supported)
        self._call_fields = call
        self._field_arguments = (self._handle, len(array), array)
        self._layout = struct.Struct("=" + _FIELD_LAYOUT * len(array))
        self._positions = {value.fieldId: position * _FIELD_NUMBERS for position, value in enumerate(array)}

    @staticmethod
    def _field_array(value_type: Any, scopes: Mapping[int, int]) -> Any:
        array = (value_type * len(scopes))()
        for value, (field_id, scope_id) in zip(array, scopes.items(), strict=True):
            value.fieldId = field_id
            value.scopeId = scope_id
        return array

    def _field(self, field_id: int) -> int | None:
        position = self._positions.get(field_id)
        if position is None:
            return None
        value_type, code, bits = self._values[position + _VALUE_TYPE : position + _FIELD_NUMBERS]
        return _number_of(value_type, bits) if code == _SUCCESS else None

    def _is_supported(self, function: str) -> bool:
        call = getattr(self._nvml, function, None)
        if call is None:
            return False
        try:
            call(self._handle)
        except self._nvml.NVMLError as exc:
            return _code(exc) not in _PERMANENT
        return True

    def _largest_limit_mw(self) -> int | None:
        constraints = self.ask("nvmlDeviceGetPowerManagementLimitConstraints") or ()
        enforced = self.ask("nvmlDeviceGetEnforcedPowerLimit")
        default = self.ask("nvmlDeviceGetPowerManagementDefaultLimit")
        limits_mw = [limit for limit in (*constraints, enforced, default) if limit and limit < _NO_BOARD_DRAWS_MW]
        return max(limits_mw, default=None)


def _number_of(value_type: int, bits: int) -> int | None:
    """The number in a field's union, None where it is none that a meter gives."""
    if value_type == 1:
        return bits & 0xFFFF_FFFF
    if value_type in (2, 3):
        return bits
    if value_type >= len(_VALUE_CODES):
        return None
    (number,) = struct.unpack_from(f"={_VALUE_CODES[value_type]}", struct.pack("=Q", bits))
    return round(number) if math.isfinite(number) and number >= 0 else None


def _binding() -> Nvml | None:
    try:
        return cast(Nvml, importlib.import_module("pynvml"))
    except ImportError as exc:
        logger.debug("pynvml: %s", exc)
        return None


def _ask(nvml: Nvml, function: str, *arguments: Any) -> Any:
    """The answer of one NVML query, None where it fails in whatever way: no query may end the others."""
    try:
        return getattr(nvml, function)(*arguments)
    except UnicodeDecodeError as exc:
        return exc.object  # pynvml decodes names, and some boards have names that are no text
    except (nvml.NVMLError, AttributeError) as exc:
        logger.debug("%s: %s", function, exc)
        return None


def _asker(nvml: Nvml) -> Ask:
    def ask(function: str, *arguments: Any) -> Any:
        answer = _ask(nvml, function, *arguments)
        return _text(answer) if isinstance(answer, bytes) else answer

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


def _code(exc: Exception) -> int:
    return int(getattr(exc, "value", -1))


def _text(value: object) -> str:
    """Text of what NVML gave; bindings before 11.5 gave bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return value.strip() if isinstance(value, str) else ""


def _key(board: Board) -> str:
    return board.uuid or board.pci_bus or f"gpu-{board.index}"


def _nothing(absence: _Absence) -> Inventory:
    warnings = (f"GPU: {absence.reason}",) if absence.is_fault else ()
    return Inventory(not_measured=(NotMeasured("gpu", "GPU", absence.reason, absence.remedy),), warnings=warnings)
