"""One NVIDIA GPU read through NVML, with as few calls as its driver allows."""

from __future__ import annotations

import ctypes
import logging
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tracker.sensors.nvml_errors import LASTING, NO_PERMISSION, NOT_SUPPORTED
from tracker.units import MICROJOULES_PER_MILLIJOULE, MICROSECONDS_PER_S, MILLIWATTS_PER_W

logger = logging.getLogger(__name__)

# Field ids, scopes and return codes: nvml.h of nvidia-nvml-dev 13.5.37.
_ENERGY: Final = 83
_AVERAGE: Final = 185
_INSTANT: Final = 186
_SCOPE_GPU: Final = 0
_SCOPE_MODULE: Final = 1
SUCCESS: Final = 0
# nvmlFieldValue_t: field, scope, timestamp and latency, which are passed over, then valueType, nvmlReturn and value.
# Taken from the array at one go: an attribute of a ctypes structure costs as much (measured: ten of them per GPU were
# half of a reading).
_FIELD_LAYOUT: Final = "24xIIQ"
_FIELD_NUMBERS: Final = 3
_USUAL_FIELDS: Final = (_INSTANT, _AVERAGE, _ENERGY)
_UINT, _ULONG_LONG = 1, 3
_UINT_MASK: Final = 0xFFFF_FFFF
_VALUE_CODES: Final = "dIQQqiH"  # by nvmlValueType_t, as struct reads the union's first bytes

# Boards do exceed their limit for milliseconds. Over twice of it a reading is a fault (g-helper PR 5819: 593 W where
# the limit is 175 W). It is kept as it was read, and left out where energy is made of it.
_MARGIN_OVER_LIMIT: Final = 2
_NO_BOARD_DRAWS_MW: Final = 10_000 * MILLIWATTS_PER_W  # also catches all-ones, which some drivers give with success
_MAX_COUNTER_MJ: Final = (2**63 - 1) // MICROJOULES_PER_MILLIJOULE


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


AVERAGE_WINDOW_US: Final = MICROSECONDS_PER_S  # nvml.h: "averaged over 1 sec interval"
_GA100: Final = SensorClass("Ampere GA100", 100_000, 25_000, 25_000)
_CLASSES: Final[Mapping[int, SensorClass]] = {  # by nvmlDeviceArchitecture_t
    2: SensorClass("Kepler"),
    3: SensorClass("Maxwell"),
    4: SensorClass("Pascal", 20_000, 10_000, 10_000),
    5: SensorClass("Volta", 20_000, 10_000, 10_000),
    6: SensorClass("Turing", 100_000, 100_000, 100_000),
    7: SensorClass("Ampere", 100_000, 100_000, AVERAGE_WINDOW_US),
    8: SensorClass("Ada", 100_000, 100_000, AVERAGE_WINDOW_US),
    9: SensorClass("Hopper", 100_000, 25_000, AVERAGE_WINDOW_US),
    10: SensorClass("Blackwell", 100_000, None, AVERAGE_WINDOW_US),
    13: SensorClass("Rubin", 100_000, None, AVERAGE_WINDOW_US),
}
_GA100_NAME: Final = re.compile(r"\b(A100X?|A30X?|A800)\b")


def sensor_class(architecture: int | None, name: str) -> SensorClass:
    """The class of a board. GA100 shares its architecture number with boards that measure otherwise."""
    if architecture is None:
        return SensorClass("unknown")
    if architecture == 7 and _GA100_NAME.search(name):
        return _GA100
    return _CLASSES.get(architecture, SensorClass(f"number {architecture}"))


class Nvml(Protocol):
    """What is used of pynvml on every machine; the rest is asked for by name, since old bindings lack some of it."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Any: ...


MeterReading = tuple[int | None, int | None, int | None]  # power and its average in mW, counter in µJ


class Meter:
    """Reads one GPU with as few calls as its driver allows: one, where it has the field-values API.

    What the driver says it does not support is found out here, once, and not asked for again.
    """

    def __init__(self, nvml: Nvml, handle: Any, name: str) -> None:
        self._nvml = nvml
        self._handle = handle
        self.name = name
        self.sensor_class = sensor_class(self.ask("nvmlDeviceGetArchitecture"), name)
        self.failure = SUCCESS  # the last return code that was none of success, of the last reading
        self.shows_no_power = False  # the last reading of power was 0
        self._refusals: set[int] = set()  # return codes that last
        self._call_fields: Callable[..., int] | None = None
        self._field_arguments: tuple[Any, ...] = ()
        self._layout = struct.Struct("")
        self._values: tuple[int, ...] = ()  # of all fields, as last read
        self._is_usual = False  # it has all three fields, and they are all that is asked for
        self._positions: dict[int, int] = {}  # by id of the field: where its numbers begin there
        c2c = self.ask("nvmlDeviceGetC2cModeInfoV")
        self.is_superchip = bool(getattr(c2c, "isC2cEnabled", 0))
        self.is_module = False  # power is that of the whole module
        self.limit_mw = self._largest_limit_mw()
        self._prepare_fields()
        has_power_field = _INSTANT in self._positions or _AVERAGE in self._positions
        self._calls_usage = not has_power_field and self._is_supported("nvmlDeviceGetPowerUsage")
        self._calls_energy = _ENERGY not in self._positions and self._is_supported(
            "nvmlDeviceGetTotalEnergyConsumption"
        )
        self._is_usual = tuple(self._positions) == _USUAL_FIELDS
        self.has_power = has_power_field or self._calls_usage
        self.has_counter = _ENERGY in self._positions or self._calls_energy

    @property
    def max_power_mw(self) -> int | None:
        """No true energy of the board exceeds this power; None: its limit is not known."""
        return None if self.limit_mw is None else self.limit_mw * _MARGIN_OVER_LIMIT

    @property
    def power_source(self) -> str:
        """Where power_mw comes from, for as long as this meter lives: "instant", "average", "usage" or ""."""
        if _INSTANT in self._positions:
            return "instant"
        if _AVERAGE in self._positions:
            return "average"
        return "usage" if self._calls_usage else ""

    @property
    def why_not(self) -> int:
        """The return code that says why there is neither power nor energy."""
        return NO_PERMISSION if NO_PERMISSION in self._refusals else NOT_SUPPORTED

    def ask(self, function: str) -> Any:
        """The answer of a query about this GPU, None where it fails."""
        return answer_of(self._nvml, function, self._handle)

    def rebind(self, handle: Any) -> None:
        """Go on with another handle of the same GPU."""
        self._handle = handle
        if self._field_arguments:
            self._field_arguments = (handle, *self._field_arguments[1:])

    def read(self) -> MeterReading:
        """Power and its average in mW, and the counter in µJ; failure says why where all are None."""
        power_mw = average_mw = counter_mj = None
        self.failure = SUCCESS
        if self._call_fields is not None:
            code = self._call_fields(*self._field_arguments)
            if code == SUCCESS:
                values = self._values = self._layout.unpack_from(self._field_arguments[-1])
                if self._is_usual:
                    a_type, a_code, power, b_type, b_code, average, c_type, c_code, energy = values
                    is_well = not (a_code or b_code or c_code)
                    if is_well and a_type == b_type == _UINT and c_type == _ULONG_LONG and energy <= _MAX_COUNTER_MJ:
                        # Nearly every reading there is. The rest below does the same for all others.
                        power, average = power & _UINT_MASK, average & _UINT_MASK
                        if power and average and (self.limit_mw or max(power, average) <= _NO_BOARD_DRAWS_MW):
                            self.shows_no_power = False
                            return power, average, energy * MICROJOULES_PER_MILLIJOULE
                power_mw = self._field(_INSTANT)
                average_mw = self._field(_AVERAGE)
                counter_mj = self._field(_ENERGY)
            else:
                self.failure = code
        if self._calls_usage:
            power_mw = self._call("nvmlDeviceGetPowerUsage")
        elif _INSTANT not in self._positions:
            power_mw, average_mw = average_mw, None
        if self._calls_energy:
            counter_mj = self._call("nvmlDeviceGetTotalEnergyConsumption")
        self.shows_no_power = power_mw == 0
        power_mw, average_mw = self._possible(power_mw), self._possible(average_mw)
        if counter_mj is None or counter_mj > _MAX_COUNTER_MJ:
            return power_mw, average_mw, None
        return power_mw, average_mw, counter_mj * MICROJOULES_PER_MILLIJOULE

    def _possible(self, power_mw: int | None) -> int | None:
        """The reading, None where no GPU that answers draws so much or so little.

        Where the board has a limit, what is over it is judged by that, with the trace beside it.
        """
        if not power_mw or (self.limit_mw is None and power_mw > _NO_BOARD_DRAWS_MW):
            return None
        return power_mw

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
            code = call(self._handle, len(array), array)
            if code in LASTING:
                self._refusals.add(code)
                return
            self._refusals |= {value.nvmlReturn for value in array} & LASTING
            supported = {value.fieldId: value.scopeId for value in array if value.nvmlReturn not in LASTING}
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
        value_type, code, bits = self._values[position : position + _FIELD_NUMBERS]
        if code != SUCCESS:
            self.failure = code
            return None
        return _number_of(value_type, bits)

    def _call(self, function: str) -> int | None:
        try:
            return int(getattr(self._nvml, function)(self._handle))
        except self._nvml.NVMLError as exc:
            self.failure = code_of(exc)
            return None

    def _is_supported(self, function: str) -> bool:
        call = getattr(self._nvml, function, None)
        if call is None:
            return False
        try:
            call(self._handle)
        except self._nvml.NVMLError as exc:
            self._refusals |= {code_of(exc)} & LASTING
            return code_of(exc) not in LASTING
        return True

    def _largest_limit_mw(self) -> int | None:
        constraints = self.ask("nvmlDeviceGetPowerManagementLimitConstraints") or ()
        enforced = self.ask("nvmlDeviceGetEnforcedPowerLimit")
        default = self.ask("nvmlDeviceGetPowerManagementDefaultLimit")
        limits_mw = [limit for limit in (*constraints, enforced, default) if limit and limit < _NO_BOARD_DRAWS_MW]
        return max(limits_mw, default=None)


def _number_of(value_type: int, bits: int) -> int | None:
    """The number in a field's union, None where it is none that a meter gives."""
    if value_type == _UINT:
        return bits & _UINT_MASK
    if value_type in (2, _ULONG_LONG):
        return bits
    if value_type >= len(_VALUE_CODES):
        return None
    (number,) = struct.unpack_from(f"={_VALUE_CODES[value_type]}", struct.pack("=Q", bits))
    return round(number) if math.isfinite(number) and number >= 0 else None


def answer_of(nvml: Nvml, function: str, *arguments: Any) -> Any:
    """The answer of one NVML query, None where it fails in whatever way: no query may end the others."""
    try:
        return getattr(nvml, function)(*arguments)
    except UnicodeDecodeError as exc:
        return exc.object  # pynvml decodes names, and some boards have names that are no text
    except (nvml.NVMLError, AttributeError) as exc:
        logger.debug("%s: %s", function, exc)
        return None


def code_of(exc: Exception) -> int:
    return int(getattr(exc, "value", -1))


def text_of(value: object) -> str:
    """Text of what NVML gave; bindings before 11.5 gave bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return value.strip() if isinstance(value, str) else ""
