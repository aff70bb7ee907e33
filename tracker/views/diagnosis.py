"""What doctor found, as text for a terminal or an issue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from tracker.records import Device, NotMeasured
from tracker.units import MICROSECONDS_PER_S
from tracker.views import amounts
from tracker.views.findings import DatabaseFound, Diagnosis, GridFound, Part, SystemFound
from tracker.views.summary import KIND_LABELS, beside_label, part_name
from tracker.views.tables import columns_of, printable, table, wrap

_INDENT: Final = "  "
_LABEL: Final = 14
_NARROWEST: Final = 32  # what a part's details take beside its name; else they stand below it
_ORIGINS: Final = {"setting": "set by", "cloud": "from", "guessed": "GUESSED from", "world": ""}


def diagnosis_text(told: Diagnosis, width: int = 80) -> str:
    """What will be measured here and how, what not and how to mend it, and what is set.

    Args:
        told: what was found.
        width: in columns of the terminal.
    """
    sections = [
        list(section)
        for section in (
            _measured(told, width),
            _modelled(told, width),
            _not_measured(told, width),
            _facts(told, width),
            _settings(told, width),
            _said(told, width),
        )
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _measured(told: Diagnosis, width: int) -> Iterator[str]:
    is_replayed = any(sensor.name == "replay" for sensor in told.sensors)
    replayed = " (replayed: a recorded trace stands in for the hardware)" if is_replayed else ""
    yield from wrap(f"measured here{replayed}", width)
    parts = [part for sensor in told.sensors for part in sensor.parts if part.method != "model"]
    yield from _parts(parts, width) if parts else (f"{_INDENT}nothing",)


def _modelled(told: Diagnosis, width: int) -> Iterator[str]:
    parts = [part for sensor in told.sensors for part in sensor.parts if part.method == "model"]
    if parts:
        yield from wrap("modelled here (estimates, kept apart from what is measured)", width)
        yield from _parts(parts, width)


def _parts(parts: Sequence[Part], width: int) -> Iterator[str]:
    """Parts with their details beside them, alike ones together."""
    alike: dict[tuple[str, ...], list[Device]] = defaultdict(list)
    for part in sorted(parts, key=lambda part: tuple(KIND_LABELS).index(part.device.kind)):
        model_name = part.device.name if part.device.kind == "gpu" else ""
        alike[KIND_LABELS[part.device.kind], model_name, part.method, printable(_how(part))].append(part.device)
    rows = [(_numbered(label, group), _names(label, group), method) for (label, _, method, _), group in alike.items()]
    heads = table(rows, width=width - len(_INDENT), flexible=(1,))
    beside = max(map(columns_of, heads)) + 2 * len(_INDENT)
    is_beside = width - beside >= _NARROWEST
    indent = beside if is_beside else 2 * len(_INDENT)
    for head, (*_, how) in zip(heads, alike, strict=True):
        first, *others = wrap(how, width - indent)
        head = _INDENT + head
        yield head + " " * (indent - columns_of(head)) + first if is_beside else head
        for line in others if is_beside else (first, *others):
            yield " " * indent + line


def _names(label: str, devices: Sequence[Device]) -> str:
    names = ", ".join(dict.fromkeys(beside_label(label, device.name) for device in devices))
    is_counted = len(devices) > 1 and devices[0].kind == "gpu" and "index" not in devices[0].attributes
    return printable(f"{len(devices)} x {names}" if is_counted else names)


def _numbered(label: str, devices: Sequence[Device]) -> str:
    """ "GPU 0-3, 6"."""
    spans: list[list[int]] = []
    for index in sorted(int(device.attributes["index"]) for device in devices if "index" in device.attributes):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    numbers = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)
    return f"{label} {numbers}".rstrip()


def _how(part: Part) -> str:
    device = part.device
    if part.method == "model":
        return "; ".join(device.notes)
    said = []
    if device.has_counter:
        period_us = device.counter_period_us
        moves = "now and then" if period_us is None else "at each read" if period_us == 0 else f"each {_us(period_us)}"
        step = f", step {amounts.energy(part.counter_step_j)}" if part.counter_step_j else ""
        said.append(f"moves {moves}{step}")
    if device.has_power:
        window_us = device.power_window_us
        window = "over an unknown time" if window_us is None else f"over {_us(window_us)}"
        step = f", step {amounts.power(part.power_step_w)}" if part.power_step_w else ""
        said.append(f"{'power beside it: ' if device.has_counter else ''}mean {window}{step}")
    said.append(f"read each {amounts.duration(part.period_s)}")
    return "; ".join([*said, *device.notes])


def _us(period_us: int) -> str:
    return amounts.duration(period_us / MICROSECONDS_PER_S)


def _not_measured(told: Diagnosis, width: int) -> Iterator[str]:
    parts = [part for sensor in told.sensors for part in sensor.not_measured]
    troubles = [f"sensor {sensor.name}: {sensor.trouble}" for sensor in told.sensors if sensor.trouble]
    if not parts and not troubles:
        return
    yield "not measured"
    by_remedy: dict[str, dict[str, list[NotMeasured]]] = defaultdict(lambda: defaultdict(list))
    for part in parts:
        by_remedy[part.remedy][part.reason].append(part)
    for remedy, by_reason in by_remedy.items():
        for reason, alike in by_reason.items():
            names = dict.fromkeys(part_name(part.kind, part.name) for part in alike)
            yield from _wrapped_below(f"{', '.join(names)}: {reason}", width)
        if remedy:
            yield f"{_INDENT * 2}mend: {printable(remedy)}"  # whole, to be copied
    for trouble in troubles:
        yield from _wrapped_below(trouble, width)


def _wrapped_below(text: str, width: int) -> Iterator[str]:
    for line in wrap(printable(text), width - len(_INDENT)):
        yield _INDENT + line


def _facts(told: Diagnosis, width: int) -> Iterator[str]:
    costs = [
        f"{sensor.name} {amounts.duration(sensor.read_s)} (opened in {amounts.duration(sensor.open_s)})"
        for sensor in told.sensors
        if sensor.read_s is not None
    ]
    lines = {
        "one reading": ", ".join(costs),
        "zone": _zone(told),
        "intensity": _intensity(told),
        "grid": _grid(told.grid),
        "source": told.intensity.source if told.intensity.provider != "user" else "",
        "database": _database(told.database),
        "locks": told.lock_folder,
        "system": _system(told.system),
        "clock": "CLOCK_BOOTTIME"
        if told.system.clock == "CLOCK_BOOTTIME"
        else "monotonic, without CLOCK_BOOTTIME: a suspend is found against the wall clock",
        "versions": ", ".join(
            f"{name.replace('_', ' ')} {version}" for name, version in told.versions.items() if version
        ),
    }
    for label, text in lines.items():
        if text:
            yield from _wrapped(label, text, width)


def _zone(told: Diagnosis) -> str:
    zone = told.zone
    if zone is None:
        return "none, beside an intensity of your own"
    return f"{zone.name} ({zone.zone}), {_ORIGINS[zone.origin]} {zone.detail}".replace(",  ", ", ")


def _intensity(told: Diagnosis) -> str:
    value = told.intensity
    if value.provider == "user":
        return f"{amounts.intensity(value.intensity_g_per_kwh)}, your own value ({value.source}), basis {value.basis}"
    of_zone = f"of {value.zone}, " if told.zone is not None and value.zone != told.zone.zone else ""
    parts = (
        f"{amounts.intensity(value.intensity_g_per_kwh)} {of_zone}".rstrip(", "),
        f"bundled {value.dataset}" if value.provider == "bundled" else f"{value.provider} {value.dataset}".strip(),
        str(value.year or ""),
        f"basis {value.basis}",
        value.accounting if value.accounting != "unknown" else "",
        value.signal,
        value.status,
    )
    return ", ".join(filter(None, parts))


def _grid(grid: GridFound | None) -> str:
    if grid is None:
        return "nobody is asked for the hour's intensity (TRACKER_PROVIDER)"
    parts = [f"{grid.title}, zone {grid.zone}" if grid.zone else grid.title]
    if not grid.is_tested:
        parts.append(f"UNTESTED on the live service ({grid.untested})")
    elif grid.untested:
        parts.append(f"untested on the live service: {grid.untested}")
    if grid.is_offline:
        parts.append("not asked, as TRACKER_OFFLINE is set")
    elif grid.closed_s:
        parts.append(f"left alone for {amounts.duration(grid.closed_s)}: {grid.closed_reason or 'asked often enough'}")
    return "; ".join([*parts, f"licence {grid.licence}" if grid.licence else ""]).removesuffix("; ")


def _database(database: DatabaseFound) -> str:
    written = database.schema_version_written
    if database.schema_version is None:
        state = (
            "not made yet" if database.exists is False else "empty" if database.size_bytes == 0 else "schema unknown"
        )
    elif database.schema_version < written:
        state = f"schema {database.schema_version}: the next run migrates it to {written}"
    else:
        state = f"schema {database.schema_version}"
    parts = (
        state,
        amounts.size(database.size_bytes) if database.size_bytes else "",
        "CANNOT BE USED" if database.trouble else "",
        f"on {database.network_file_system}" if database.network_file_system else "",
        "" if database.free_bytes is None else f"{amounts.size(database.free_bytes)} free",
    )
    waiting = f"; run files to be folded in: {database.run_files} (tracker db merge)" if database.run_files else ""
    return f"{database.place}: {', '.join(filter(None, parts))}{waiting}"


def _system(system: SystemFound) -> str:
    cpus = "" if system.logical_cpus is None else f"{system.logical_cpus} CPUs"
    if cpus and system.limit_cpus is not None:
        cpus = f"{system.limit_cpus:.3g} of {cpus} by control group"
    memory = "" if system.memory_bytes is None else amounts.size(system.memory_bytes)
    if memory and system.limit_memory_bytes is not None:
        memory = f"{amounts.size(system.limit_memory_bytes)} of {memory} by control group"
    own_numbers = "process numbers of its own" if system.pid_namespace == "own" else ""
    parts = (system.system, *system.places, system.cpu, cpus, f"memory {memory}" if memory else "", own_numbers)
    return ", ".join(filter(None, parts))


def _settings(told: Diagnosis, width: int) -> Iterator[str]:
    yield "settings"
    rows = [
        (setting.name, printable("-" if setting.value is None else setting.value), printable(setting.origin))
        for setting in told.settings
    ]
    for line in table(rows, width=width - len(_INDENT), flexible=(1, 2)):
        yield _INDENT + line


def _said(told: Diagnosis, width: int) -> Iterator[str]:
    missing = {f"{part.name}: {part.reason}" for sensor in told.sensors for part in sensor.not_measured}
    of_sensors = (warning for sensor in told.sensors for warning in sensor.warnings if warning not in missing)
    warnings = [*told.warnings, *of_sensors]
    for label, texts in (("problem", told.problems), ("warning", warnings)):
        for text in texts:
            yield from _wrapped(label, text, width)
    yield "no problems" if told.is_well else f"problems: {len(told.problems)}"


def _wrapped(label: str, text: str, width: int) -> Iterator[str]:
    """A label and its text beside it."""
    for line in wrap(printable(text), width - _LABEL):
        yield f"{label:<{_LABEL}}{line}"
        label = ""
