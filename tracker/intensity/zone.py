"""The place of a run: what people write resolved to a zone code, and the system time zone's country."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from tracker.errors import UnknownZoneError
from tracker.intensity.tables import WORLD, cloud_regions, countries_by_time_zone, zones
from tracker.records import ZoneChoice

# A sub-national code that we have no value for still says the country: "DE-BY", "DK-DK1", "US-CAL-CISO".
_SUBDIVISION: Final = re.compile(r"([A-Z]{2})-[A-Z0-9]{1,4}(-[A-Z0-9]{1,6})*")
# All their ISO subdivisions are in the tables, so another two letters are a slip of the pen.
_COMPLETE_COUNTRIES: Final = frozenset({"US", "CA"})
_PROVIDER_NAMES: Final[Mapping[str, str]] = {
    "amazon": "aws",
    "google": "gcp",
    "microsoft": "azure",
    "az": "azure",
    "ovhcloud": "ovh",
}
_MAX_NEAR: Final = 4
_EXAMPLES: Final = (
    'a country ("FR", "FRA", "France"), a state or province ("US-CA", "CA-QC"), "SE3", "CAMX", a cloud region '
    '("aws:eu-west-3") or "WORLD"'
)


def resolve(text: str, origin: str) -> ZoneChoice:
    """The zone that a setting names: a code in any case, an alpha-3 code, an unambiguous English name, a cloud region.

    "CA" is Canada and "GA" Gabon: the code of a state or province is never taken without its country.

    Args:
        text: what was written.
        origin: who wrote it, for messages and the record: "argument zone", "TRACKER_ZONE", ….

    Raises:
        UnknownZoneError: no zone is called that, or more than one is.
    """
    if ":" in text:
        return _of_cloud(text, origin)
    exact = zones().get(text)
    if exact is not None:  # without making all names comparable
        return ZoneChoice(exact.code, exact.name, "setting", origin)
    key = _key(text)
    codes = _codes_by_key().get(key, ())
    if len(codes) == 1:
        row = zones()[codes[0]]
        return ZoneChoice(row.code, row.name, "setting", origin)
    if codes:
        several = " or ".join(f'"{code}" ({zones()[code].name})' for code in codes)
        raise UnknownZoneError(f"{origin}: {text!r} is the name of several zones; say {several}", zone=text, near=codes)
    code = key.upper()
    subdivision = _SUBDIVISION.fullmatch(code)
    if subdivision and subdivision[1] in zones():
        country = subdivision[1]
        if country not in _COMPLETE_COUNTRIES or len(code) != len("US-CA"):
            return ZoneChoice(code, f"{code} ({zones()[country].name})", "setting", origin)
    near = _near(key)
    meant = ", ".join(f'"{found}" ({zones()[found].name})' for found in near)
    raise UnknownZoneError(
        f"{origin}: no zone is called {text[:80]!r}; {f'near to it: {meant}; ' if meant else ''}give {_EXAMPLES}",
        zone=text,
        near=near,
    )


def _of_cloud(text: str, origin: str) -> ZoneChoice:
    """The country of a cloud region, "aws:eu-west-3". Operators do not say more of where its electricity comes from."""
    provider, _, region = (part.strip().casefold() for part in text.partition(":"))
    provider = _PROVIDER_NAMES.get(provider, provider)
    found = cloud_regions().get((provider, region))
    if found is not None:
        row = zones()[found.country]
        return ZoneChoice(row.code, row.name, "setting", f"{origin}: {provider}:{region} ({found.location})")
    import difflib

    here = [name for operator, name in cloud_regions() if operator == provider]
    near = tuple(f"{provider}:{name}" for name in difflib.get_close_matches(region, here, n=_MAX_NEAR))
    operators = ", ".join(sorted({operator for operator, _ in cloud_regions()}))
    hint = f"near to it: {', '.join(near)}" if near else f"write OPERATOR:REGION with one of {operators}"
    raise UnknownZoneError(f"{origin}: no cloud region is called {text[:80]!r}; {hint}", zone=text, near=near)


def country_of(code: str) -> str:
    """Code of the country that a resolved zone lies in; the zone itself for a country and the world."""
    row = zones().get(code)
    return (row.parent or row.code) if row else code.partition("-")[0]


def system_zone(environ: Mapping[str, str], root: Path = Path("/")) -> ZoneChoice | None:
    """The country of the system time zone: a guess, and marked as one.

    TZ decides where it is set, else the link /etc/localtime, which is what the C library goes by, else
    /etc/timezone, which stands beside a localtime that is a copy (in containers).

    Args:
        root: the folder that holds etc/.

    Returns:
        None where no place can be told: UTC, a POSIX rule such as "CET-1CEST", a system that keeps its time
        zone elsewhere (Windows).
    """
    time_zone = _time_zone(environ, root)
    country = countries_by_time_zone().get(time_zone)
    if country is None:
        return None
    return ZoneChoice(country, zones()[country].name, "guessed", f"time zone {time_zone}")


def _time_zone(environ: Mapping[str, str], root: Path) -> str:
    if "TZ" in environ:
        return _below_zoneinfo(environ["TZ"].removeprefix(":"))
    try:
        return _below_zoneinfo((root / "etc" / "localtime").readlink().as_posix())
    except OSError:
        pass
    try:
        # A folder where Docker was told to mount a file that the host lacks, or no text at all: no place.
        return (root / "etc" / "timezone").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _below_zoneinfo(path: str) -> str:
    name = path.rpartition("zoneinfo/")[2]
    return name.removeprefix("posix/").removeprefix("right/")


def _key(text: str) -> str:
    """Text as names are compared: without case, accents, and differences of spacing."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return " ".join(plain.replace("’", "'").replace("_", " ").casefold().split())


@cache
def _codes_by_key() -> Mapping[str, tuple[str, ...]]:
    codes: dict[str, tuple[str, ...]] = {}
    for row in zones().values():
        for key in {_key(name) for name in (row.code, row.name, *row.aliases)}:
            codes[key] = (*codes.get(key, ()), row.code)
    # A code is never ambiguous: "GEORGIA" is a country and a state, "GE" is not.
    codes.update((_key(code), (code,)) for code in zones())
    return codes


def _near(key: str) -> tuple[str, ...]:
    """Codes that the key may have meant, best first: as a state or province, else by likeness."""
    import difflib

    below = [code for code in zones() if code.endswith(f"-{key.upper()}")]
    like = difflib.get_close_matches(key, _codes_by_key(), n=_MAX_NEAR)
    found = dict.fromkeys([*below, *(code for name in like for code in _codes_by_key()[name])])
    found.pop(WORLD, None)
    return tuple(found)[:_MAX_NEAR]
