"""Pictures of a run for reports, drawn by Matplotlib: power by device with spans and marks, intensity and emissions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tracker.curves import RunCurves
from tracker.errors import SettingError
from tracker.records import DeviceEnergy, Mark, Run, Span
from tracker.units import MICROSECONDS_PER_S, SECONDS_PER_HOUR
from tracker.views.summary import part_name
from tracker.views.tables import cut, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by the colour-blind too. Source: Okabe and Ito, "Color Universal Design" (2008).
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
_DASHES: Final = ("-", "--", ":", "-.")  # for more devices than colours
_WIDTH_IN: Final = 9.0
_NAME_WIDTH: Final = 40
_MOST_LANES: Final = 4
_MOST_MARKS: Final = 400
_LETTERS: Final = 110  # of the small letters of spans, across the picture
_FEWEST_LETTERS: Final = 4


def picture_of(run: Run, curves: RunCurves, form: str) -> bytes | None:
    """The picture as "svg" or "png"; None: there is nothing to draw.

    Raises:
        SettingError: Matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise SettingError('pictures need Matplotlib: pip install "gpu-energy-tracker[report]"') from exc
    spans, marks = run.spans, run.marks
    panels: list[Any] = []
    gpus = [pair for pair in curves.devices if pair[0].kind == "gpu"]
    others = [pair for pair in curves.devices if pair[0].kind != "gpu"]
    panels.extend(("power", group) for group in (gpus, others) if group)
    slots = curves.slots
    if slots is not None and not np.isnan(slots.emissions_g).all():
        panels.extend((("emissions", slots), ("intensity", slots)))
    if not panels:
        return None
    if spans or marks:
        panels.insert(0, ("spans", None))
    scale, unit = _time_unit((curves.end_us - curves.start_us) / MICROSECONDS_PER_S)
    # Texts as texts, so that they can be searched and copied; fixed ids, so that the same run gives the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tracker", "font.size": 9, "text.parse_math": False}):
        heights = [{"power": 2.4, "spans": 0.2 * _lanes(spans) + 0.2}.get(kind, 1.2) for kind, _ in panels]
        figure = Figure(figsize=(_WIDTH_IN, sum(heights) + 0.6), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (kind, content) in zip(axes, panels, strict=True):
            if kind == "spans":
                _draw_spans(axis, curves, spans, marks, scale)
                continue
            if kind == "power":
                _draw_power(axis, curves, content, scale)
            elif kind == "emissions":
                _draw_slots(axis, curves, content.emissions_g, "g CO2e\nper 5 min", scale)
            else:
                _draw_slots(axis, curves, content.intensity_g_per_kwh, "g/kWh", scale)
            axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
            axis.grid(alpha=0.25, linewidth=0.5)
        begin = datetime.fromtimestamp(curves.start_us / MICROSECONDS_PER_S, UTC)
        axes[-1].set_xlabel(f"{unit} since {begin:%Y-%m-%d %H:%M:%S} UTC")
        axes[-1].set_xlim(0, (curves.end_us - curves.start_us) / MICROSECONDS_PER_S / scale)
        out = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": "tracker"} if form == "svg" else {"Software": "tracker"}
        figure.savefig(out, format=form, metadata=metadata, dpi=150)
    return out.getvalue()


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds >= 2 * SECONDS_PER_HOUR:
        return float(SECONDS_PER_HOUR), "hours"
    return (60.0, "minutes") if seconds >= 180 else (1.0, "seconds")


def _draw_power(axis: Axes, curves: RunCurves, group: Sequence[Any], scale: float) -> None:
    span_s = (curves.end_us - curves.start_us) / MICROSECONDS_PER_S
    for number, (device, curve) in enumerate(group):
        middle = (np.arange(len(curve.mean_w)) + 0.5) * span_s / len(curve.mean_w) / scale
        known = ~np.isnan(curve.mean_w)
        colour = _COLOURS[number % len(_COLOURS)]
        dashes = _DASHES[number // len(_COLOURS) % len(_DASHES)]
        label = _label(device, number, is_alone=len(group) == 1)
        axis.plot(middle[known], curve.mean_w[known], dashes, color=colour, linewidth=0.9, label=label)
        axis.fill_between(
            middle[known], curve.least_w[known], curve.most_w[known], color=colour, alpha=0.18, linewidth=0
        )
    axis.set_ylabel("W")
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)


def _label(device: DeviceEnergy, number: int, *, is_alone: bool) -> str:
    """Kind, number among its kind and name; boards of one model have the same name."""
    is_numbered = device.kind == "gpu" and not is_alone
    index = device.attributes.get("index", number) if is_numbered else None
    # Matplotlib leaves out labels that begin with an underscore; these begin with the kind.
    return cut(printable(part_name(device.kind, device.name, index)), _NAME_WIDTH)


def _draw_slots(axis: Axes, curves: RunCurves, values: Any, label: str, scale: float) -> None:
    slots = curves.slots
    assert slots is not None
    start_s = curves.start_us / MICROSECONDS_PER_S
    end_s = curves.end_us / MICROSECONDS_PER_S
    left = np.maximum(slots.start_s, start_s)
    right = np.minimum(slots.start_s + slots.slot_s, end_s)
    known = ~np.isnan(values) & (right > left)
    axis.bar(
        (left[known] - start_s) / scale,
        values[known],
        width=(right - left)[known] / scale,
        align="edge",
        color="#56B4E9",
        edgecolor="white",
        linewidth=0.3,
    )
    axis.set_ylabel(label)


def _draw_spans(axis: Axes, curves: RunCurves, spans: Sequence[Span], marks: Sequence[Mark], scale: float) -> None:
    """Spans as bars, each below the one around it, named where there is room; marks as ticks at their foot."""
    start_s = curves.start_us / MICROSECONDS_PER_S
    whole = (curves.end_us - curves.start_us) / MICROSECONDS_PER_S / scale
    depths: dict[int | None, int] = {None: -1}
    for span in sorted(spans, key=lambda span: span.id):
        depths[span.id] = min(depths.get(span.parent_id, -1) + 1, _MOST_LANES - 1)
    for number, span in enumerate(spans):
        begin = (span.started_at.timestamp() - start_s) / scale
        length = (span.duration_s or 0.0) / scale
        lane = depths[span.id]
        shade = ("#D9E6F2", "#BFD4E8")[number % 2]
        axis.barh(-lane, length, left=begin, height=0.9, color=shade, edgecolor="white", linewidth=0.4)
        letters = int(length / whole * _LETTERS)
        if letters >= _FEWEST_LETTERS:
            text = cut(printable(span.name), letters)
            axis.text(begin + whole * 0.004, -lane, text, fontsize=7, ha="left", va="center", clip_on=True)
    if marks:
        chosen = marks[:: max(1, len(marks) // _MOST_MARKS)]
        floor = -max(depths.values(), default=0) - 0.75
        axis.plot(
            [mark.elapsed_s / scale for mark in chosen], [floor] * len(chosen), "|", color="#000000", markersize=4
        )
    axis.set_yticks([])
    axis.margins(y=0.05)


def _lanes(spans: Sequence[Span]) -> int:
    depths: dict[int | None, int] = {None: 0}
    for span in sorted(spans, key=lambda span: span.id):
        depths[span.id] = depths.get(span.parent_id, 0) + 1
    return min(max(depths.values()), _MOST_LANES)
