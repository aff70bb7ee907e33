"""Checks of settings that only the rooms of intensity and sensors can judge."""

from __future__ import annotations

from tracker.errors import SettingError, TraceError


def check_zone(value: str, origin: str) -> str:
    """The zone as given, when a table knows it.

    Raises:
        UnknownZoneError: (a ValueError) no table does; the message names near matches.
    """
    from tracker.intensity.zone import resolve

    resolve(value, origin=origin)
    return value


def check_replay(value: str, origin: str) -> str:
    """The path as given, when a trace can be read from it.

    Raises:
        SettingError: it is no trace.
    """
    from tracker.sensors.replay import ReplaySensor

    try:
        ReplaySensor(value)
    except TraceError as exc:
        raise SettingError(f"{origin}: {exc}") from exc
    return value
