"""Checks of settings that only the rooms of intensity and sensors can judge; they import those when called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tracker.errors import SettingError, TraceError
from tracker.settings import checked_argument


def check_zone(value: str, origin: str) -> str:
    """The zone as given, when a table knows it or it is to be that of this machine's cloud.

    Raises:
        UnknownZoneError: (a ValueError) no table does; the message names near matches.
    """
    from tracker.intensity.choice import CLOUD
    from tracker.intensity.zone import resolve

    if value.strip().casefold() != CLOUD:
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


def check_intensity_file(value: str, origin: str) -> str:
    """The path as given, when a series of intensities can be read from it.

    Raises:
        SettingError: it holds none; the message names the line.
    """
    from tracker.intensity.providers.ownfile import OwnFile
    from tracker.intensity.providers.transport import utc_now

    try:
        OwnFile(Path(value), utc_now())
    except SettingError as exc:
        raise SettingError(f"{origin}: {exc}") from exc
    return value


def check_provider(value: str, origin: str) -> str:
    """The name as given, when there is such a provider.

    Raises:
        SettingError: there is none; the message names those that there are.
    """
    from tracker.intensity.providers.registry import check_name

    try:
        check_name(value)
    except SettingError as exc:
        raise SettingError(f"{origin}: {exc}") from exc
    return value


def checked_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as their settings read them, without those that are None.

    Raises:
        SettingError: (a ValueError) a value is wrong.
        TypeError: it is of the wrong type.
    """
    arguments = {name: checked_argument(name, value) for name, value in given.items() if value is not None}
    for name, check in CHECKS.items():
        if name in arguments:
            check(arguments[name], f"argument {name}")
    return arguments


CHECKS: Final[Mapping[str, Callable[[str, str], str]]] = {
    "zone": check_zone,
    "replay": check_replay,
    "intensity_file": check_intensity_file,
    "provider": check_provider,
}
