"""What `tracker watch` shows of runs: a frame of text for a terminal of any size. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tracker.progress import Progress
from tracker.records import Device, DeviceEnergy, Mark, Run
from tracker.units import MILLIWATTS_PER_W
from tracker.views import amounts
from tracker.views.listing import name_of
from tracker.views.summary import KIND_LABELS, beside_label, device_titles, part_name
from tracker.views.tables import columns_of, cut, printable, wrap

_BOX_WIDTH: Final = 38
_ROW_WIDTH: Final = 70  # from here on a device's name and figures stand on one line
_ROW_NAME: Final = 30
_MOST_WARNINGS: Final = 3
_OLD_S: Final = 3.0  # figures that are older than that say of when they are
_OLD_POWER_S: Final = 10.0  # likewise; readings are committed each second, on another machine by another clock
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_ASCII_SPARKS: Final = "_.-=+*#@"


@dataclass(frozen=True, slots=True)
class Watched:
    """A run as it is watched.

    Attributes:
        run: as last read.
        read_at: when that was; its figures are of then.
        devices: what is known of the run's devices beside their energy, in their order; empty: nothing yet.
        power_w: by number of the device its power, second by second, the newest last; NaN where it is unknown.
        power_at: the newest reading of any device; None: there is none.
        mark: the newest; None: none.
        progress: what is expected at the end, as far as it has been watched; None: nothing is marked.
        hosts: the machines that the devices are in, in their order; empty: not known.
    """

    run: Run
    read_at: datetime
    devices: Sequence[Device]
    power_w: Mapping[int, Sequence[float]]
    power_at: datetime | None
    mark: Mark | None
    progress: Progress | None = None
    hosts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Shown:
    """A device of a run as it is shown.

    Attributes:
        title: its kind, with the machine before it where there are several, and its number among its like there.
        name: of its model.
        powers: second by second.
        power: the power now, or why it is unknown; of a run that has ended its mean.
        power_w: the same as a number; None: unknown.
        limit_w: None: unknown.
    """

    device: DeviceEnergy
    title: str
    name: str
    powers: Sequence[float]
    power: str
    power_w: float | None
    limit_w: float | None


@dataclass(frozen=True, slots=True)
class Look:
    """How frames look: size in columns and lines (0: as many as it takes), ASCII alone, colours."""

    width: int
    height: int = 0
    is_ascii: bool = False
    has_colours: bool = False


def frame_of(watched: Sequence[Watched], look: Look, at: datetime, place: str, trouble: str = "") -> list[str]:
    """The lines that show these runs, none wider than the terminal and no more of them than it is high.

    Args:
        at: the present.
        place: the database, for the case that nothing runs.
        trouble: why the runs could not be read at present; "" where they could.
    """
    if not watched and not trouble:
        return wrap(nothing_runs(place, at, is_ascii=look.is_ascii), look.width)
    head = [_yellow(line, look) for line in wrap(_safe(f"! cannot be read at present: {trouble}", look), look.width)]
    lines = head = head if trouble else []
    for one in watched:
        lines = [*lines, *([""] if lines else []), *_run_lines(one, look, at, are_boxes=True)]
    if look.height and len(lines) > look.height:
        lines = head + [line for one in watched for line in _run_lines(one, look, at, are_boxes=False)]
    if look.height and len(lines) > look.height:
        left = len(lines) - look.height + 1
        lines = [
            *lines[: look.height - 1],
            cut(f"and {left} lines more: make the terminal higher, or name a RUN", look.width),
        ]
    return lines


def nothing_runs(place: str, at: datetime, *, is_ascii: bool = False) -> str:
    """What is said where no run goes on."""
    return _safe(f"no runs are going on in {place} ({at.astimezone():%H:%M:%S})", Look(0, is_ascii=is_ascii))


def plain_line(watched: Watched, at: datetime, *, is_ascii: bool = False) -> str:
    """A run on one line, for where there is no terminal."""
    run = watched.run
    is_gpu = {index for index, device in enumerate(run.devices) if device.kind == "gpu"}
    newest = [_newest(powers) for index, powers in watched.power_w.items() if index in is_gpu]
    known = [power for power in newest if power is not None]
    of_all = "" if not known or len(known) == len(newest) else f" ({len(known)} of {len(newest)}, the others unknown)"
    is_on = run.status == "running"
    parts = [
        f"{at.astimezone():%Y-%m-%dT%H:%M:%S%z}",
        run.id,
        name_of(run),
        run.status,
        amounts.duration(run.duration_s),
        f"GPUs {amounts.power(math.fsum(known) if known else None)}{of_all}" if newest and is_on else "",
        _energy(run),
        _emissions(run),
        _cost(run),
        _progress(watched.mark),
        "replayed" if run.is_replayed else "",
        f"{len(run.warnings)} warnings" if run.warnings else "",
    ]
    return _safe("; ".join(filter(None, parts)), Look(0, is_ascii=is_ascii))


def _safe(text: str, look: Look) -> str:
    """A text with what others have named, fit for the terminal."""
    text = printable(text)
    return text.encode("ascii", "backslashreplace").decode("ascii") if look.is_ascii else text


def _run_lines(watched: Watched, look: Look, at: datetime, *, are_boxes: bool) -> list[str]:
    run = watched.run
    is_on = run.status == "running"
    age_s = max(0.0, (at - watched.read_at).total_seconds()) if is_on else 0.0
    dated = f" (of {watched.read_at.astimezone():%H:%M:%S})" if age_s > _OLD_S else ""
    name = _safe(name_of(run), look)
    state = _safe(f"{run.id}  {run.status} {amounts.duration(run.duration_s + age_s)}", look)
    is_short = columns_of(name) + 2 + columns_of(state) <= look.width
    title = [f"{name}  {state}"] if is_short else [cut(name, look.width), *wrap(state, look.width)]
    lines = [_bold(line, look) for line in title]
    parts = (_energy(run), _emissions(run), _cost(run), f"coverage {amounts.share(run.coverage)}{dated}")
    figures = "; ".join(filter(None, parts))
    lines.extend(wrap(figures, look.width))
    if run.is_replayed:
        lines.extend(wrap("replayed: a recorded trace stands in for the hardware", look.width))
    power_at = watched.power_at
    if is_on and power_at is not None and (at - power_at).total_seconds() > _OLD_POWER_S:
        lines.extend(wrap(f"power is of {power_at.astimezone():%H:%M:%S}: nothing newer is here yet", look.width))
    left_out = {(part.kind, part.key) for part in run.not_measured}
    shown = list(_shown(watched, look))
    gpus = [one for one in shown if one.device.kind == "gpu"]
    others = [one for one in shown if one.device.kind != "gpu" and (one.device.kind, one.device.key) not in left_out]
    if are_boxes and look.width >= _BOX_WIDTH:
        lines.extend(_boxes([_box(one, look) for one in gpus], look))
    else:
        lines.extend(line for one in gpus for line in _row(one, look))
    lines.extend(line for one in others for line in _row(one, look))
    if not run.devices:
        lines.append(cut("no device has been read yet", look.width))
    for text in (_grid(run), _progress(watched.mark), _expected(watched.progress)):
        if text:
            lines.extend(wrap(_safe(text, look), look.width))
    by_reason: dict[str, list[str]] = {}
    for part in run.not_measured:
        by_reason.setdefault(part.reason, []).append(part_name(part.kind, part.name))
    told = [f"not measured: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    lines.extend(_some(told, "", run, look))
    lines.extend(_yellow(line, look) for line in _some(run.warnings, "! ", run, look))
    return lines


def _some(texts: Sequence[str], sign: str, run: Run, look: Look) -> list[str]:
    """The first of the texts, and how many more there are."""
    more = len(texts) - _MOST_WARNINGS
    shown = [*texts[:_MOST_WARNINGS], *([f"and {more} more: tracker show {run.id}"] if more > 0 else [])]
    return [line for text in shown for line in wrap(_safe(f"{sign}{text}", look), look.width)]


def _energy(run: Run) -> str:
    parts = [amounts.energy(run.energy_j) + " measured"] if run.energy_j is not None else []
    if run.energy_modelled_j is not None:
        parts.append(f"{amounts.energy(run.energy_modelled_j)} modelled (an estimate)")
    return " and ".join(parts) or "energy unknown"


def _emissions(run: Run) -> str:
    parts = [amounts.mass(run.emissions_g)] if run.emissions_g is not None else []
    if run.emissions_modelled_g is not None:
        parts.append(f"{amounts.mass(run.emissions_modelled_g)} of the modelled energy")
    return f"{' and '.join(parts)} CO2e" if parts else "emissions unknown"


def _cost(run: Run) -> str:
    """Of a run that has a price."""
    if run.currency is None:
        return ""
    parts = [amounts.money(run.cost, run.currency)] if run.cost is not None else []
    if run.cost_modelled is not None:
        parts.append(f"{amounts.money(run.cost_modelled, run.currency)} of the modelled energy")
    return printable(" and ".join(parts)) or "cost unknown"


def _grid(run: Run) -> str:
    own = [use.value for use in run.intensity if use.value.signal == "average"]
    if not own:
        return "grid: unknown, no energy has been priced yet"
    newest = max(own, key=lambda value: (value.start is not None, value.start.timestamp() if value.start else 0.0))
    zone = f"{newest.zone}, " if newest.zone else ""
    when = f", from {newest.start.astimezone():%H:%M}" if newest.start is not None else ""
    return f"grid {amounts.intensity(newest.intensity_g_per_kwh)} ({zone}{newest.provider}, {newest.status}{when})"


def _expected(progress: Progress | None) -> str:
    """What a unit of the run uses, since it is watched, and what it will have used at its end, where that is known."""
    if progress is None:
        return ""
    each = (
        ""
        if progress.energy_j_per_unit is None
        else f"{amounts.energy(progress.energy_j_per_unit)} each {progress.unit}"
    )
    if each and progress.emissions_g_per_unit is not None:
        each += f" and {amounts.mass(progress.emissions_g_per_unit)} CO2e"
    modelled = ", of modelled energy" if progress.is_modelled else ""
    if progress.energy_j is None and progress.left_s is None:
        return f"{each}{modelled}" if each else ""
    parts = []
    for figure, shown, what in (
        (progress.energy_j, amounts.energy, ""),
        (progress.emissions_g, amounts.mass, " CO2e"),
        (progress.cost, lambda cost: amounts.money(cost, progress.currency), ""),
        (progress.left_s, amounts.duration, " left"),
    ):
        if figure is not None:
            parts.append(f"{shown(figure.mean)}{what} ({shown(figure.low)} to {shown(figure.high)})")
    each = f"{each}; " if each else ""
    return f"{each}expected at the end of {progress.total:.10g} {progress.unit}s: {', '.join(parts)}{modelled}"


def _progress(mark: Mark | None) -> str:
    if mark is None:
        return ""
    values = mark.values
    told = []
    for name, value in values.items():
        # "steps", made since the mark before, and "total_steps" are told with "step".
        if name.removeprefix("total_").removesuffix("s") in values and name.endswith("s"):
            continue
        total = values.get(f"total_{name}s")
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        told.append(f"{name} {shown}" + (f" of {total}" if total is not None else ""))
    return cut(printable(f"progress: {', '.join(told)}"), 200)


def _newest(powers: Sequence[float]) -> float | None:
    """The power now; None: unknown."""
    return None if not powers or math.isnan(powers[-1]) else powers[-1]


def _shown(watched: Watched, look: Look) -> Iterator[_Shown]:
    is_on = watched.run.status == "running"
    for index, (device, title) in enumerate(
        zip(watched.run.devices, device_titles(watched.run, watched.hosts), strict=True)
    ):
        powers = watched.power_w.get(index, ())
        power_w = _newest(powers) if is_on else device.mean_power_w
        known = watched.devices[index] if index < len(watched.devices) else None
        limit_mw = None if known is None else known.max_power_mw
        yield _Shown(
            device=device,
            title=_safe(title, look),
            name=_safe(beside_label(KIND_LABELS[device.kind], device.name), look),
            powers=powers,
            power=_power(powers) if is_on else f"mean {amounts.power(device.mean_power_w)}",
            power_w=power_w,
            limit_w=None if limit_mw is None else limit_mw / MILLIWATTS_PER_W,
        )


def _power(powers: Sequence[float]) -> str:
    """The power now, or why it is unknown."""
    power_w = _newest(powers)
    if power_w is not None:
        return amounts.power(power_w)
    silent_s = next((past for past, power in enumerate(reversed(powers)) if not math.isnan(power)), None)
    return "unknown: not read yet" if silent_s is None else f"unknown: unread for {amounts.duration(silent_s)}"


def _against_limit(power_w: float | None, limit_w: float | None, columns: int, look: Look) -> str:
    """Power as a bar of its limit."""
    if power_w is None or limit_w is None or limit_w <= 0 or columns < 4:
        return ""
    filled = min(columns, round(columns * power_w / limit_w))
    full, empty = ("#", ".") if look.is_ascii else ("█", "░")
    return full * filled + empty * (columns - filled)


def _spark(powers: Sequence[float], columns: int, look: Look) -> str:
    """The last seconds, lowest to highest of what is shown from 0 on; a space where nothing was read."""
    shown = list(powers)[-columns:]
    known = [power for power in shown if not math.isnan(power)]
    top = max(known, default=0.0)
    steps = _ASCII_SPARKS if look.is_ascii else _SPARKS
    return "".join(
        " " if math.isnan(power) else steps[min(len(steps) - 1, int(power / top * len(steps)) if top > 0 else 0)]
        for power in shown
    )


def _box(shown: _Shown, look: Look) -> list[str]:
    inner = _BOX_WIDTH - 4
    limit = ", limit unknown" if shown.limit_w is None else f" of {amounts.power(shown.limit_w)}"
    of_limit = shown.power + (limit if shown.power_w is not None else "")
    bar = _against_limit(shown.power_w, shown.limit_w, inner - columns_of(of_limit) - 1, look)
    energy = f"{amounts.energy(shown.device.energy_j)}, {_method(shown.device)}"
    room = inner - columns_of(energy) - 1
    spark = _spark(shown.powers, room, look).rjust(room)
    across, down, corners = ("-", "|", "++++") if look.is_ascii else ("─", "│", "┌┐└┘")
    title = cut(f"{shown.title} {shown.name}".rstrip(), inner)
    top = f"{corners[0]}{across} {title} {across * (inner - columns_of(title) - 1)}{corners[1]}"
    rows = [f"{of_limit} {bar}", f"{energy} {spark}"]
    body = [f"{down} {_padded(cut(row, inner), inner)} {down}" for row in rows]
    return [top, *body, f"{corners[2]}{across * (inner + 2)}{corners[3]}"]


def _boxes(boxes: Sequence[list[str]], look: Look) -> list[str]:
    """Boxes beside each other, equally many in each row where that takes no row more."""
    if not boxes:
        return []
    most = max(1, (look.width + 1) // (_BOX_WIDTH + 1))
    each = math.ceil(len(boxes) / math.ceil(len(boxes) / most))
    lines: list[str] = []
    for start in range(0, len(boxes), each):
        lines.extend(" ".join(parts) for parts in zip(*boxes[start : start + each], strict=True))
    return lines


def _method(device: DeviceEnergy) -> str:
    return {"model": "model, an estimate", "none": "no energy yet"}.get(device.method, device.method)


def _row(shown: _Shown, look: Look) -> list[str]:
    """A device on one line, or where that is narrow on as many as it takes, without its model's name."""
    energy = f"{amounts.energy(shown.device.energy_j)}, {_method(shown.device)}"
    title = f"{shown.title} {shown.name}".rstrip()
    if look.width < _ROW_WIDTH:
        short = shown.title if shown.device.kind == "gpu" else title
        return wrap(f"{cut(short, look.width)} {shown.power}, {energy}", look.width)
    limit = "" if shown.limit_w is None else f" of {amounts.power(shown.limit_w)}"
    figures = f"{shown.power + limit:>9}  {energy}"
    room = max(_ROW_NAME // 2, min(_ROW_NAME, look.width - columns_of(figures) - 2))
    line = f"{_padded(cut(title, room), room)}  {figures}"
    left = look.width - columns_of(line) - 2
    spark = _spark(shown.powers, left, look) if left > 4 else ""
    return [cut(f"{line}  {spark}".rstrip(), look.width)]


def _padded(text: str, width: int) -> str:
    return text + " " * max(0, width - columns_of(text))


def _bold(text: str, look: Look) -> str:
    return f"\x1b[1m{text}\x1b[0m" if look.has_colours else text


def _yellow(text: str, look: Look) -> str:
    return f"\x1b[33m{text}\x1b[0m" if look.has_colours else text
