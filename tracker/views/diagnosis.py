"""What doctor found, as text for a terminal or an issue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from tracker.records import Device, IntensityValue, NotMeasured, ZoneChoice
from tracker.units import MICROSECONDS_PER_S
from tracker.views import amounts
from tracker.views.summary import KIND_LABELS
from tracker.views.tables import printable, table, wrap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_INDENT: Final = 2
_LABEL: Final = 14


class _Sensor(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def open_s(self) -> float | None: ...
    @property
    def read_s(self) -> float | None: ...
    @property
    def devices(self) -> tuple[Device, ...]: ...
    @property
    def not_measured(self) -> tuple[NotMeasured, ...]: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...


class _Setting(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def origin(self) -> str: ...


class _Database(Protocol):
    @property
    def label(self) -> str: ...
    @property
    def version(self) -> int | None: ...
    @property
    def free_bytes(self) -> int | None: ...


class Told(Protocol):
    """A diagnosis as session.diagnosis makes it."""

    @property
    def versions(self) -> Mapping[str, str]: ...
    @property
    def system(self) -> Mapping[str, str]: ...
    @property
    def sensors(self) -> Sequence[_Sensor]: ...
    @property
    def zone(self) -> ZoneChoice | None: ...
    @property
    def intensity(self) -> IntensityValue | None: ...
    @property
    def settings(self) -> Sequence[_Setting]: ...
    @property
    def database(self) -> _Database: ...
    @property
    def problems(self) -> Sequence[str]: ...
    @property
    def warnings(self) -> Sequence[str]: ...


def diagnosis_text(told: Told, width: int = 80) -> str:
    """What will be measured here and how, what not and how to mend it, and what is set.

    Args:
        told: what was found.
        width: in columns of the terminal.
    """
    out: list[str] = []
    for lines in (_measured(told, width), _missing(told, width), _place(told, width), _settings(told, width)):
        out += [*lines, ""]
    out += _said("problem", told.problems, width)
    out += _said("warning", told.warnings, width)
    out.append("nothing to mend" if not told.problems else f"{len(told.problems)} to mend")
    return "\n".join(out)


def _measured(told: Told, width: int) -> Iterator[str]:
    yield "measured here"
    rows = [_device_row(device) for sensor in told.sensors for device in sensor.devices]
    if not rows:
        yield " " * _INDENT + "nothing"
    for line in table(rows, width=width - _INDENT, flexible=(1, 3)):
        yield " " * _INDENT + line
    costs = [
        f"{sensor.name} {1e3 * sensor.read_s:.2g} ms"
        + (f" (opened in {sensor.open_s:.1f} s)" if sensor.open_s > 1 else "")
        for sensor in told.sensors
        if sensor.read_s is not None and sensor.open_s is not None
    ]
    if costs:
        yield from wrapped("one reading", "; ".join(costs), width)


def _device_row(device: Device) -> tuple[str, str, str, str]:
    label = KIND_LABELS[device.kind]
    name = printable(device.name.removeprefix(f"{label} "))
    if device.kind == "gpu" and "index" in device.attributes:
        name = f"{device.attributes['index']} {name}"
    if device.sensor == "model":
        return label, name, "model", f"rating {device.attributes.get('rating_w', '?')} W"
    return label, name, "counter" if device.has_counter else "power", ", ".join(_how(device))


def _how(device: Device) -> Iterator[str]:
    if device.has_counter:
        period_us = device.counter_period_us
        if period_us == 0:
            yield "counter moves at each read"
        elif period_us is not None:
            yield f"counter each {amounts.duration(period_us / MICROSECONDS_PER_S)}"
    if device.has_power:
        window_us = device.power_window_us
        window = (
            "window unknown" if window_us is None else f"mean of {amounts.duration(window_us / MICROSECONDS_PER_S)}"
        )
        yield f"power: {window}"
    if device.attributes.get("scope") == "module":
        yield "whole module"


def _missing(told: Told, width: int) -> Iterator[str]:
    parts = [part for sensor in told.sensors for part in sensor.not_measured]
    if not parts:
        return
    yield "not measured"
    by_reason: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        label = KIND_LABELS[part.kind]
        name = "" if part.name == label else part.name.removeprefix(f"{label} ")
        by_reason.setdefault((part.reason, part.remedy), []).append(f"{label} {name}".rstrip())
    for (reason, remedy), names in by_reason.items():
        for line in wrap(printable(f"{', '.join(dict.fromkeys(names))}: {reason}"), width - _INDENT):
            yield " " * _INDENT + line
        if remedy:
            yield " " * 2 * _INDENT + f"mend: {remedy}"  # whole, to be copied


def _place(told: Told, width: int) -> Iterator[str]:
    zone, value = told.zone, told.intensity
    if value is not None:
        where = "no zone" if zone is None else f"{zone.name or zone.zone} ({zone.zone}), {zone.origin}: {zone.detail}"
        year = "" if value.year is None else f", {value.year}"
        told_value = f"{amounts.intensity(value.intensity_g_per_kwh)}, {value.provider} {value.dataset}{year}"
        yield from wrapped("zone", printable(where), width)
        yield from wrapped(
            "intensity", printable(f"{told_value}, {value.basis}, {value.signal}, {value.status}"), width
        )
    database = told.database
    state = "not made yet" if database.version is None else f"schema {database.version}"
    free = "" if database.free_bytes is None else f", {amounts.size(database.free_bytes)} free"
    yield from wrapped("database", f"{printable(database.label)} ({state}{free})", width)
    yield from wrapped("system", ", ".join(told.system.values()), width)
    yield from wrapped("versions", ", ".join(f"{name} {version}" for name, version in told.versions.items()), width)


def _settings(told: Told, width: int) -> Iterator[str]:
    yield "settings"
    rows = [(setting.name, printable(setting.value), printable(setting.origin)) for setting in told.settings]
    for line in table(rows, width=width - _INDENT, flexible=(1, 2)):
        yield " " * _INDENT + line


def _said(label: str, texts: Sequence[str], width: int) -> Iterator[str]:
    for text in texts:
        yield from wrapped(label, printable(text), width)


def wrapped(label: str, text: str, width: int) -> Iterator[str]:
    """A label and its text beside it."""
    for line in wrap(text, width - _LABEL):
        yield f"{label:<{_LABEL}}{line}"
        label = ""
