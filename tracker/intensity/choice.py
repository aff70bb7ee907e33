"""Which intensity prices a run where no grid is asked: the user's own, a bundled one, or the world's average."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tracker.errors import SettingError
from tracker.intensity.tables import WORLD, lookup, zones
from tracker.intensity.zone import country_of, resolve, system_zone
from tracker.records import IntensityValue, ZoneChoice
from tracker.units import GRAMS_PER_KG

# A grid's yearly mean lies between 20 and 1100 g/kWh; the same in kg/kWh below 2, in lb/MWh up to 2500.
_LOOKS_LIKE_KG_BELOW: Final = 2.0
_LOOKS_TOO_HIGH_ABOVE: Final = 2000.0
CLOUD: Final = "cloud"
_SAY_THE_ZONE: Final = 'say where it runs: zone="…", TRACKER_ZONE, or an intensity of your own'


@dataclass(frozen=True, slots=True)
class IntensityChoice:
    """What prices a run, and why it is that.

    Attributes:
        zone: where the run is taken to be; None where the user gave an intensity and no zone.
        value: holds at any time; where there are values over time, it stands in for those that are missing.
        warnings: what the user must be told: a guess, a fallback, a doubt.
        series: what a source has said of the run's time; average and marginal ones are priced each for itself.
        has_source: there is a source, whether or not it has said anything.
    """

    zone: ZoneChoice | None
    value: IntensityValue
    warnings: tuple[str, ...] = ()
    series: tuple[IntensityValue, ...] = ()
    has_source: bool = False


def choose(
    intensity_g_per_kwh: float | None,
    zone: str | None,
    *,
    environ: Mapping[str, str],
    root: Path = Path("/"),
    intensity_origin: str = "argument intensity_g_per_kwh",
    zone_origin: str = "argument zone",
    offline: bool = False,
) -> IntensityChoice:
    """The intensity of a run, by the order of DESIGN.md, section 6, without providers.

    The user's own value, else the zone's bundled one, else its country's, else the world average. Without a
    zone the country of the system time zone stands in, and the choice says that it was guessed.

    Args:
        intensity_g_per_kwh: the user's own value, or None.
        zone: as the user wrote it, or None; "cloud": by the metadata of this machine's cloud.
        environ: for the system time zone.
        root: the folder that holds etc/, for the same.
        intensity_origin: where the value came from, for messages and the record.
        zone_origin: where the zone came from, likewise.
        offline: the cloud's metadata is not asked.

    Raises:
        SettingError: the user's value is negative or not finite.
        UnknownZoneError: no table knows the zone.
    """
    place, unknown = None, ""
    if zone is not None and zone.strip().casefold() == CLOUD:
        from tracker.intensity.cloud import cloud_zone  # asks for something, so only where it is wanted

        place, unknown = cloud_zone(environ, offline=offline, origin=zone_origin, root=root)
    elif zone is not None:
        place = resolve(zone, zone_origin)
    chosen = _chosen(intensity_g_per_kwh, place, environ, root, intensity_origin)
    return replace(chosen, warnings=(f"zone of the cloud: {unknown}", *chosen.warnings)) if unknown else chosen


def _chosen(
    intensity_g_per_kwh: float | None,
    place: ZoneChoice | None,
    environ: Mapping[str, str],
    root: Path,
    intensity_origin: str,
) -> IntensityChoice:
    if intensity_g_per_kwh is not None:
        return _users_own(intensity_g_per_kwh, place, intensity_origin)
    if place is None:
        place = system_zone(environ, root)
        if place is None:
            world = ZoneChoice(WORLD, zones()[WORLD].name, "world", "no zone set")
            value = _world_value()
            return IntensityChoice(world, value, (f"no zone: {_named(value)} is used; {_SAY_THE_ZONE}",))
        value, warnings = _bundled(place)
        guess = f"zone {place.zone} ({place.name}) was guessed from the {place.detail}; {_SAY_THE_ZONE}"
        return IntensityChoice(place, value, (guess, *warnings))
    return IntensityChoice(place, *_bundled(place))


def _users_own(intensity_g_per_kwh: float, place: ZoneChoice | None, origin: str) -> IntensityChoice:
    if not math.isfinite(intensity_g_per_kwh) or intensity_g_per_kwh < 0:
        raise SettingError(f"{origin}: an intensity is 0 g/kWh or more, not {intensity_g_per_kwh!r}")
    warnings = []
    if 0 < intensity_g_per_kwh < _LOOKS_LIKE_KG_BELOW:
        in_g_per_kwh = intensity_g_per_kwh * GRAMS_PER_KG
        warnings.append(
            f"{origin}: {intensity_g_per_kwh:g} g/kWh is less than any grid has; "
            f"if it is in kg/kWh, give {in_g_per_kwh:g}"
        )
    elif intensity_g_per_kwh > _LOOKS_TOO_HIGH_ABOVE:
        warnings.append(
            f"{origin}: {intensity_g_per_kwh:g} g/kWh is more than any grid has; "
            f"is it in g/MWh or lb/MWh? It is taken as g/kWh"
        )
    value = IntensityValue(
        zone=place.zone if place else "",
        intensity_g_per_kwh=float(intensity_g_per_kwh),
        provider="user",
        dataset="constant",
        status="static",
        accounting="user",
        source=origin,
        raw_value=float(intensity_g_per_kwh),
        raw_unit="g/kWh",
    )
    return IntensityChoice(place, value, tuple(warnings))


def _bundled(place: ZoneChoice) -> tuple[IntensityValue, tuple[str, ...]]:
    """The nearest bundled value: the zone's own, its country's, the world's; with what must be said of it."""
    for code in dict.fromkeys((place.zone, country_of(place.zone), WORLD)):
        value = lookup(code)
        if value is not None:
            break
    else:
        raise AssertionError("the bundled tables have no world average")
    warnings = []
    if value.zone != place.zone:
        own = zones().get(place.zone)
        why = f" ({own.doubt})" if own and own.doubt else ""
        warnings.append(f"zone {place.zone}: no bundled value{why}; {_named(value)} is used")
    if doubt := zones()[value.zone].doubt:
        warnings.append(f"zone {value.zone}: {value.intensity_g_per_kwh:g} g/kWh is doubtful ({doubt})")
    return value, tuple(warnings)


def _world_value() -> IntensityValue:
    value = lookup(WORLD)
    assert value is not None, "the bundled tables have a world average"
    return value


def _named(value: IntensityValue) -> str:
    name = "the world average" if value.zone == WORLD else f"that of {zones()[value.zone].name}"
    return f"{name}, {value.intensity_g_per_kwh:g} g/kWh of {value.year} ({value.basis})"
