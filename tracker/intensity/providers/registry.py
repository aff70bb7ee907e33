"""Which provider serves a zone: by what the user configured, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from tracker.errors import NotServedError, SettingError
from tracker.intensity.providers import (
    eia,
    electricitymaps,
    energidataservice,
    energycharts,
    neso,
    odre,
    watttime,
)
from tracker.intensity.providers.ownfile import OwnFile
from tracker.intensity.providers.plugins import plugin, plugin_names
from tracker.intensity.providers.protocol import Profile, Provider
from tracker.intensity.providers.transport import Access, access, unlimited, utc_now
from tracker.records import Signal


@dataclass(frozen=True, slots=True)
class Builtin:
    """A provider of ours, before it is made."""

    profile: Profile
    default_url: str
    make: Callable[[Access], Provider]


# In the order in which they are asked: national operators know their own grid best.
BUILTIN: Final[Mapping[str, Builtin]] = {
    entry.profile.name: entry
    for entry in (
        Builtin(neso.PROFILE, neso.DEFAULT_URL, neso.Neso),
        Builtin(odre.PROFILE, odre.DEFAULT_URL, odre.Odre),
        Builtin(energidataservice.PROFILE, energidataservice.DEFAULT_URL, energidataservice.EnergiDataService),
        Builtin(electricitymaps.PROFILE, electricitymaps.DEFAULT_URL, electricitymaps.ElectricityMaps),
        Builtin(eia.PROFILE, eia.DEFAULT_URL, eia.Eia),
        Builtin(watttime.PROFILE, watttime.DEFAULT_URL, watttime.WattTime),
        Builtin(energycharts.PROFILE, energycharts.DEFAULT_URL, energycharts.EnergyCharts),
    )
}
AUTO: Final = "auto"  # in place of a name: the operator of the zone, where it asks for no token


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """A provider and the zone to ask it for.

    Attributes:
        zone: the run's, or the provider's own code where the user named one ("watttime:CAISO_NORTH").
    """

    provider: Provider
    zone: str


def provider_for(
    zone: str,
    *,
    named: str | None = None,
    intensity_file: Path | None = None,
    signal: Signal = "average",
    environ: Mapping[str, str],
    offline: bool = False,
    before_request: Callable[[], None] = unlimited,
    now: Callable[[], datetime] = utc_now,
) -> ProviderChoice | None:
    """The provider of a run: the user's file, else the one named, else the first whose token is set.

    Without any of these there is none, and nothing goes on the network (DESIGN.md, section 6).

    Args:
        zone: as resolved.
        named: what TRACKER_PROVIDER says: a name, a name with the provider's own code behind a colon, or "auto".
        intensity_file: a file of the user's own.
        signal: average and marginal intensities are different questions; a name decides by itself.
        environ: for TRACKER_<NAME>_URL and TRACKER_<NAME>_TOKEN.
        before_request: called before each request of any provider; what it raises keeps the request from going out.

    Raises:
        SettingError: no provider is called so, or its URL or token cannot be one.
        IntensityFileError: the file cannot be read.
        NotServedError: the provider named, or the file, has no such zone.
    """

    def made(entry: Builtin) -> Provider:
        return entry.make(reached(entry.profile.name, entry.profile.title, entry.default_url))

    def reached(name: str, title: str, default_url: str) -> Access:
        return access(name, title, default_url, environ, offline=offline, before_request=before_request, now=now)

    if intensity_file is not None:
        return _serving(OwnFile(intensity_file, now()), zone)
    name, _, code = (named or "").partition(":")
    if name and name != AUTO:
        name = name.strip().lower()
        if name in BUILTIN:
            return _serving(made(BUILTIN[name]), code.strip() or zone)
        if name in plugin_names():
            return _serving(plugin(name, reached(name, name, "")), code.strip() or zone)
        check_name(name)
    for entry in BUILTIN.values():
        profile = entry.profile
        # Who has something to tell first is asked only by name.
        is_automatic = name == AUTO and not profile.needs_token and not profile.notice
        is_configured = is_automatic or bool(environ.get(f"TRACKER_{profile.name.upper()}_TOKEN"))
        if profile.signal == signal and is_configured:
            provider = made(entry)
            if provider.code_of(zone) is not None:
                return ProviderChoice(provider, zone)
    return None


def check_name(named: str) -> None:
    """See that there is such a provider.

    Raises:
        SettingError: there is none; the message names those that there are.
    """
    name = named.partition(":")[0].strip().lower()
    if name in BUILTIN or name == AUTO:  # without looking for plug-ins, which takes longer than all else of a start
        return
    known = [*BUILTIN, *plugin_names(), AUTO]
    if name not in known:
        raise SettingError(f"no provider of intensity is called {name[:40]!r}; there are {', '.join(known)}")


def _serving(provider: Provider, zone: str) -> ProviderChoice:
    if provider.code_of(zone) is None:
        profile = provider.profile
        raise NotServedError(f"{profile.title}: does not serve zone {zone[:40]!r}; it serves {profile.serves}")
    return ProviderChoice(provider, zone)
