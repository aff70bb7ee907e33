"""One run as a short text for people, and as a fragment of HTML for notebooks."""

from __future__ import annotations

import html
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeVar

from tracker.comparison import COUNTED, units_of
from tracker.records import (
    DeviceEnergy,
    DeviceKind,
    IntensityUse,
    IntensityValue,
    NotMeasured,
    Run,
    Subtotal,
    ZoneChoice,
)
from tracker.units import JOULES_PER_KWH
from tracker.views import amounts
from tracker.views.tables import cut, printable, table, wrap

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

KIND_LABELS: Final[dict[DeviceKind, str]] = {
    "gpu": "GPU",
    "cpu_package": "CPU",
    "dram": "DRAM",
    "cpu": "CPU",
    "ram": "RAM",
}

_KINDS: Final = list(KIND_LABELS)
_MODEL_OF: Final[dict[DeviceKind, DeviceKind]] = {"cpu_package": "cpu", "dram": "ram"}

_LABEL_WIDTH: Final = 14
_ROW_INDENT: Final = 2
_FEW: Final = 2  # alike devices that get a line each
_NAME_WIDTH: Final = 60
_KEY_WIDTH: Final = 15  # "GPU-1a2b3c4d...": such a prefix names a GPU in CUDA_VISIBLE_DEVICES too
_ALIKE_WITHIN: Final = 0.1  # devices whose energy is this near to their mean are shown as one line


@dataclass(frozen=True, slots=True)
class Section:
    """A labelled part of the summary: paragraphs, then rows of devices."""

    label: str
    lines: Sequence[str]
    rows: Sequence[Sequence[str]] = ()


def summary_text(run: Run, width: int = 80) -> str:
    """What a run used and emitted, what measured it, and what is not in the figures.

    Args:
        run: finished or not.
        width: in columns of the terminal; no line is longer, but where a width below 40 leaves no room.
    """
    sections = sections_of(run)
    # The devices of all sections stand in the same columns.
    rows = [row for section in sections for row in section.rows]
    laid_out = iter(table(rows, width=width - _ROW_INDENT, flexible=(1,), right=(3, 4, 5)))
    out = []
    for section in sections:
        lead = section.label
        for line in section.lines:
            for part in wrap(line, width - _LABEL_WIDTH):
                out.append(f"{lead:<{_LABEL_WIDTH}}{part}")
                lead = ""
        out.extend(" " * _ROW_INDENT + next(laid_out) for _ in section.rows)
    return "\n".join(out)


def summary_html(run: Run) -> str:
    """The summary as an HTML table, every text escaped."""
    out = ['<table class="tracker-run" style="text-align: left">']
    for section in sections_of(run):
        lines = "<br>".join(html.escape(line) for line in section.lines)
        out.append(f'<tr><th scope="row" style="vertical-align: top">{section.label}</th><td>{lines}')
        if section.rows:
            rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in section.rows)
            out.append("<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>")
        out.append("</td></tr>")
    out.append("</table>")
    return "\n".join(out)


def _utc_text(instant: datetime) -> str:
    """An aware UTC instant to the second."""
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def pue_text(pue: float) -> str:
    """PUE with what 1 means, as the figure alone does not say that overhead is left out."""
    return "PUE 1.0 (IT energy only)" if pue == 1 else f"PUE {pue:g}"


def sections_of(run: Run) -> list[Section]:
    sections = [Section("run", _identity(run)), Section("status", [_status(run)])]
    if run.is_replayed:
        sections.append(Section("replayed", ["a recorded trace stood in for the hardware: not this machine's energy"]))
    if run.status == "disabled":
        return sections
    sections.append(Section("measured", [_measured(run)], _rows(d for d in run.devices if d.method != "model")))
    if run.energy_modelled_j is not None:
        sections.append(Section("modelled", [_modelled(run)], _rows(d for d in run.devices if d.method == "model")))
    sections.append(Section("emissions", list(_emissions(run))))
    sections.append(Section("cost", list(_cost(run))))
    sections.append(Section("intensity", list(_intensity(run))))
    sections.append(Section("progress", list(_progress(run))))
    sections.append(Section("not measured", list(_not_measured(run))))
    sections.append(Section("notes", list(_notes(run.devices))))
    sections.append(Section("noted", [f"{note.at:%Y-%m-%d}: {printable(note.text)}" for note in run.notes]))
    sections.append(Section("warnings", [printable(warning) for warning in run.warnings]))
    return [section for section in sections if section.lines]


def _identity(run: Run) -> list[str]:
    parts = [_short(run.name) if run.name else "(no name)"]
    if run.project:
        parts.append(f"project {_short(run.project)}")
    lines = [", ".join([*parts, f"id {run.id}"])]
    if run.tags:
        lines.append("tags " + ", ".join(f"{_short(key)}={_short(value)}" for key, value in run.tags.items()))
    if run.parent_id:
        lines.append(f"part of run {run.parent_id}")
    return lines


def _short(name: str) -> str:
    return cut(printable(name), _NAME_WIDTH)


def _status(run: Run) -> str:
    if run.status == "disabled":
        return "disabled: TRACKER_DISABLED is set, nothing was measured"
    parts = [str(run.status)]
    if run.started_at is not None:
        parts.append(f"started {_utc_text(run.started_at)}")
    so_far = " so far" if run.status == "running" else ""
    return ", ".join([*parts, f"{amounts.duration(run.duration_s)}{so_far}"])


def _measured(run: Run) -> str:
    if run.energy_j is None:
        return "nothing yet" if run.status == "running" else "nothing"
    parts = [amounts.energy(run.energy_j), f"coverage {amounts.share(run.coverage)}"]
    if run.energy_range_j is not None:
        parts.append(f"range {_range_text([run.energy_range_j])}")
    else:  # of the parts whose sensors have a known error
        for kind, alike in _grouped(run.devices, lambda d: d.kind).items():
            ranges_j = [d.energy_range_j for d in alike if d.energy_range_j is not None]
            if len(ranges_j) == len(alike):
                parts.append(f"{KIND_LABELS[kind]} range {_range_text(ranges_j)}")
    return ", ".join(parts)


def _modelled(run: Run) -> str:
    parts = [f"{amounts.energy(run.energy_modelled_j)}, an estimate; not part of the measured energy"]
    modelled = [d for d in run.devices if d.method == "model"]
    ranges_j = [d.energy_range_j for d in modelled if d.energy_range_j is not None]
    if ranges_j and len(ranges_j) == len(modelled):
        low, high = _range_of_sum(ranges_j)
        parts.append(f"expected within {low} to {high}")
    return ", ".join(parts)


def _range_text(ranges_j: Sequence[tuple[float, float]]) -> str:
    low, high = _range_of_sum(ranges_j)
    return f"{low} to {high} (k = 2)"


def _range_of_sum(ranges_j: Sequence[tuple[float, float]]) -> tuple[str, str]:
    low, high = (amounts.energy(sum(bounds_j)) for bounds_j in zip(*ranges_j, strict=True))
    return low, high


def _rows(devices: Iterable[DeviceEnergy]) -> list[tuple[str, ...]]:
    """The devices in lines: alike ones together, each alone too where they are few or differ."""
    rows = []
    by_kind = sorted(devices, key=lambda d: _KINDS.index(d.kind))
    for alike in _grouped(by_kind, lambda d: (d.kind, d.name, d.method)).values():
        label = KIND_LABELS[alike[0].kind]
        name = printable(beside_label(label, alike[0].name))
        if len(alike) == 1:
            namesakes = [d for d in by_kind if (d.kind, d.name) == (alike[0].kind, alike[0].name)]
            key = "" if len(namesakes) == 1 else f" {_short_keys(namesakes)[namesakes.index(alike[0])]}"
            rows.append(_row(label, f"{name}{key}", alike))
        elif len(alike) <= _FEW:
            pairs = zip(_short_keys(alike), alike, strict=True)
            rows.extend(_row(label, f"{name} {key}", [device]) for key, device in pairs)
        else:
            rows.append(_row(label, f"{len(alike)} x {name}", alike))
            if _differ(alike):
                rows.extend(_row("", key, [device]) for key, device in zip(_short_keys(alike), alike, strict=True))
    return rows


def _short_keys(devices: Sequence[DeviceEnergy | NotMeasured]) -> list[str]:
    """The beginnings of the keys, which CUDA_VISIBLE_DEVICES takes too; their ends where all begin alike."""
    keys = [printable(device.key) for device in devices]
    begins = [cut(key, _KEY_WIDTH) for key in keys]
    if len(set(begins)) == len(keys):
        return begins
    return [key if len(key) <= _KEY_WIDTH else f"...{key[-_KEY_WIDTH + 3 :]}" for key in keys]


def _row(label: str, name: str, devices: Sequence[DeviceEnergy]) -> tuple[str, ...]:
    return (
        label,
        name,
        devices[0].method,
        amounts.share(sum(d.coverage for d in devices) / len(devices)),
        amounts.energy(_sum_of_known(d.energy_j for d in devices)),
        f"mean {amounts.power(_sum_of_known(d.mean_power_w for d in devices))}",
    )


def _sum_of_known(values: Iterable[float | None]) -> float | None:
    """Of a group's devices; that some are unknown shows in its coverage, and in their own lines."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _differ(devices: Sequence[DeviceEnergy]) -> bool:
    if len({amounts.share(d.coverage) for d in devices}) > 1:
        return True
    known_j = [d.energy_j for d in devices if d.energy_j is not None]
    mean_j = sum(known_j) / len(devices)
    return any(abs(energy_j - mean_j) > _ALIKE_WITHIN * mean_j for energy_j in known_j)


def _emissions(run: Run) -> Iterator[str]:
    if run.emissions_g is not None:
        yield f"{amounts.mass(run.emissions_g)} CO2e of the measured energy; {pue_text(run.pue)}"
    elif run.energy_j is not None:
        yield "unknown, as no intensity is known"
    elif run.emissions_modelled_g is None:
        yield "unknown, as no energy is"
    if run.emissions_modelled_g is not None:
        yield f"{amounts.mass(run.emissions_modelled_g)} CO2e of the modelled energy, an estimate; {pue_text(run.pue)}"
    yield from map(_apart, run.emissions_apart)
    for earlier in run.provenance.get("repriced", ())[-1:]:
        before = earlier["before"]
        masses = [amounts.mass(before["emissions_g"])] if before["emissions_g"] is not None else []
        if before["emissions_modelled_g"] is not None:
            masses.append(f"{amounts.mass(before['emissions_modelled_g'])} (modelled energy)")
        zone = f", zone {printable(before['zone'])}" if before["zone"] else ""
        said = " and ".join(masses) or amounts.UNKNOWN
        yield f"priced anew on {earlier['at'][:10]}; before: {said} CO2e; {pue_text(before['pue'])}{zone}"


def _cost(run: Run) -> Iterator[str]:
    """What the electricity cost, of a run that has a price."""
    if run.price_per_kwh is None:
        return
    price = f"{pue_text(run.pue)}, at {run.price_per_kwh:.10g} {run.currency}/kWh"
    if run.cost is not None:
        yield printable(f"{amounts.money(run.cost, run.currency)} of the measured energy; {price}")
    if run.cost_modelled is not None:
        yield printable(
            f"{amounts.money(run.cost_modelled, run.currency)} of the modelled energy, an estimate; {price}"
        )
    if run.cost is None and run.cost_modelled is None:
        yield "unknown, as no energy is"
    for earlier in run.provenance.get("repriced", ())[-1:]:
        before = earlier["before"]
        was = replace(
            run, pue=before["pue"], price_per_kwh=before.get("price_per_kwh"), currency=before.get("currency")
        )
        if (was.cost, was.currency) != (run.cost, run.currency):
            price = "no price" if was.price_per_kwh is None else f"{was.price_per_kwh:.10g} {was.currency}/kWh"
            said = amounts.money(was.cost, was.currency)
            yield printable(f"priced anew on {earlier['at'][:10]}; before: {said}; {pue_text(was.pue)}, at {price}")


def _apart(subtotal: Subtotal) -> str:
    masses = [amounts.mass(subtotal.emissions_g)] if subtotal.energy_j else []
    if subtotal.energy_modelled_j:
        masses.append(f"{amounts.mass(subtotal.emissions_modelled_g)} (modelled energy)")
    if subtotal.signal == "marginal":
        return f"apart, in no sum: {' and '.join(masses)} CO2e at marginal intensity, of the same energy"
    priced = amounts.energy(subtotal.energy_j + subtotal.energy_modelled_j)
    return f"apart, in no sum: {' and '.join(masses)} CO2e on basis {subtotal.basis}, of another {priced}"


def _intensity(run: Run) -> Iterator[str]:
    groups = _grouped(run.intensity, _provenance_key)
    priced_j: dict[str, float] = defaultdict(float)
    for use in run.intensity:
        priced_j[use.value.signal] += use.energy_j + use.energy_modelled_j
    for uses in groups.values():
        value = uses[0].value
        own_j = sum(use.energy_j + use.energy_modelled_j for use in uses)
        is_all = own_j == priced_j[value.signal] or not priced_j[value.signal]
        of_energy = "" if is_all else f", for {amounts.share(own_j / priced_j[value.signal])} of the energy"
        if value.provider == "user":
            yield printable(f"{_level(uses)}, the user's own value ({value.source}), basis {value.basis}{of_energy}")
        else:
            yield printable(f"{_level(uses)}, {_place(value, uses[0], run.zone)}{of_energy}")
            yield printable(_provenance(value))


def _provenance_key(use: IntensityUse) -> Hashable:
    v = use.value
    return (use.zone_origin, v.zone, v.provider, v.dataset, v.year, v.basis, v.accounting, v.signal, v.status, v.note)


def _level(uses: Sequence[IntensityUse]) -> str:
    """One intensity, or the range of several and their mean by energy."""
    levels = [use.value.intensity_g_per_kwh for use in uses]
    if len(set(levels)) == 1:
        return amounts.intensity(levels[0])
    text = f"{amounts.intensity(min(levels))} to {amounts.intensity(max(levels))}"
    total_j = sum(use.energy_j for use in uses)
    if total_j:
        priced_g = sum(use.energy_j * use.value.intensity_g_per_kwh for use in uses) / JOULES_PER_KWH
        text += f" (mean by energy {amounts.intensity(priced_g * JOULES_PER_KWH / total_j)})"
    return text


def _place(value: IntensityValue, use: IntensityUse, zone: ZoneChoice | None) -> str:
    if use.zone_origin == "world":
        return "world average, as no zone is known"
    if zone is None:
        return value.zone
    place = f"{zone.name} ({zone.zone})" if zone.name else zone.zone
    if value.zone != zone.zone:
        place = f"that of {value.zone}, for {place}"
    found = {"setting": "set by", "cloud": "from", "guessed": "GUESSED from"}[use.zone_origin]
    return f"{place}, {found} {zone.detail or use.zone_origin}"


def _provenance(value: IntensityValue) -> str:
    """Which value it is, short; its source, licence and note stand in the record."""
    parts = [
        f"{value.provider}: {value.dataset or value.source}",
        str(value.year) if value.year is not None else "",
        value.basis if value.basis != "unknown" else "basis unknown",
        value.accounting if value.accounting != "unknown" else "",
        value.signal,
        value.status,
    ]
    return ", ".join(filter(None, parts))


def _progress(run: Run) -> Iterator[str]:
    """What each unit of the run's marks took, of the whole run."""
    for unit in units_of(run, run.marks):
        each = [amounts.energy(unit.energy_j)] if unit.energy_j is not None else []
        if unit.emissions_g is not None:
            each.append(f"{amounts.mass(unit.emissions_g)} CO2e")
        if each:
            yield f"{unit.count:.10g} {COUNTED[unit.unit]}, each {' and '.join(each)} of the measured energy"


def _not_measured(run: Run) -> Iterator[str]:
    """What is missing, by reason, with each remedy once."""
    modelled = {d.kind for d in run.devices if d.method == "model"}
    names = {id(part): name for part, name in zip(run.not_measured, _names_of(run), strict=True)}
    for remedy, mended in _grouped(run.not_measured, lambda part: part.remedy).items():
        for reason, alike in _grouped(mended, lambda part: part.reason).items():
            instead = "; modelled instead" if all(_MODEL_OF.get(part.kind) in modelled for part in alike) else ""
            yield printable(f"{', '.join(names[id(part)] for part in alike)}: {reason}{instead}")
        if remedy:
            yield printable(f"remedy: {remedy}")


def _names_of(run: Run) -> Iterator[str]:
    """What each part that is not measured is called; with its key where others of the run have its name too."""
    parts: list[DeviceEnergy | NotMeasured] = [*run.devices, *run.not_measured]
    held = {part.key: part for part in parts if part.key}
    for part in run.not_measured:
        name = part_name(part.kind, part.name)
        namesakes = [other for other in held.values() if (other.kind, other.name) == (part.kind, part.name)]
        if part.kind == "gpu" and part.key and len(namesakes) > 1:
            keys = [other.key for other in namesakes]
            name = f"{name} {_short_keys(namesakes)[keys.index(part.key)]}"
        yield name


def part_name(kind: DeviceKind, name: str, number: object = None) -> str:
    """A part's kind, its number among them where one is given, and its name."""
    label = KIND_LABELS[kind]
    which = label if number is None else f"{label} {number}"
    return f"{which} {beside_label(label, name)}".rstrip()


def device_titles(run: Run, hosts: Sequence[str] = ()) -> Iterator[str]:
    """What each device of a run is called beside its like: "GPU 0", or "node1 GPU 0" where there are several machines.

    Args:
        hosts: the machines of the devices, in their order; empty: not known.
    """
    places = hosts if len(hosts) == len(run.devices) else [""] * len(run.devices)
    first_words = {host: host.partition(".")[0] for host in places}
    are_distinct = len(set(first_words.values())) == len(first_words)
    counts: Counter[tuple[str, DeviceKind]] = Counter()
    for device, host in zip(run.devices, places, strict=True):
        number = device.attributes.get("index", counts[host, device.kind])
        counts[host, device.kind] += 1
        title = part_name(device.kind, "", number if device.kind == "gpu" else None)
        yield f"{first_words[host] if are_distinct else host} {title}" if len(first_words) > 1 else title


def beside_label(label: str, name: str) -> str:
    """A part's name where its kind stands before it: "CPU package-0" would say CPU twice."""
    return "" if name == label else name.removeprefix(f"{label} ")


def _notes(devices: Iterable[DeviceEnergy]) -> Iterator[str]:
    """Each note once, with the kinds of the devices that carry it, and how many where not one."""
    noted = [(KIND_LABELS[d.kind], note) for d in devices for note in d.notes]
    for note, carriers in _grouped(noted, lambda pair: pair[1]).items():
        counts = Counter(label for label, _ in carriers)
        kinds = ", ".join(label if n == 1 else f"{label} ({n})" for label, n in counts.items())
        yield printable(f"{kinds}: {note}")


def _grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups
