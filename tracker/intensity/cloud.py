"""Where this machine stands, by the metadata service of its cloud: asked only when the zone is set to "cloud"."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tracker.errors import UnknownZoneError
from tracker.intensity.zone import resolve
from tracker.records import ZoneChoice
from tracker.signals import start_without_signals

URL_VARIABLE: Final = "TRACKER_CLOUD_URL"
LONGEST_S: Final = 0.2  # for all together: a run's start waits for it
_ADDRESS: Final = "http://169.254.169.254"  # link-local, the same at all three
_MOST_BYTES: Final = 256
_REGION: Final = re.compile(r"[a-z0-9-]{2,40}")
_GCP_ZONE: Final = re.compile(r"projects/\d+/zones/([a-z0-9-]{2,40})-[a-z]")
_VENDORS: Final = {"amazon": "aws", "google": "gcp", "microsoft": "azure"}
_VENDOR_FILE: Final = Path("sys/class/dmi/id/sys_vendor")


def cloud_zone(
    environ: Mapping[str, str], *, offline: bool = False, origin: str = "argument zone", root: Path = Path("/")
) -> tuple[ZoneChoice | None, str]:
    """The country of this machine's cloud region, or why it is unknown.

    Only the region is asked for, in one try, without proxies and within LONGEST_S; nothing else is read. A thread that
    is still waiting then is left to its time-out.

    Args:
        environ: for TRACKER_CLOUD_URL, in place of the link-local address.
        offline: nothing goes out.
        origin: who set the zone, for the record.
        root: the folder that holds sys/.

    Source: AWS IMDSv2, Google Compute Engine and Azure Instance Metadata Service (knowledge/grid.md, section 9).
    """
    if offline:
        return None, "TRACKER_OFFLINE is set: the cloud's metadata is not asked"
    region, trouble = _region(environ.get(URL_VARIABLE) or _ADDRESS, _vendor(root))
    if not region:
        return None, trouble
    try:
        found = resolve(region, f"{origin}, metadata")
    except UnknownZoneError as exc:
        return None, str(exc)
    return ZoneChoice(found.zone, found.name, "cloud", found.detail), ""


def _vendor(root: Path) -> str:
    """The cloud that made this machine, as its firmware says; "": it does not."""
    try:
        said = (root / _VENDOR_FILE).read_text(encoding="utf-8", errors="replace").casefold()
    except OSError:
        return ""
    return next((cloud for vendor, cloud in _VENDORS.items() if vendor in said), "")


@cache
def _region(url: str, vendor: str) -> tuple[str, str]:
    """This machine's cloud and region as "aws:eu-west-3", or "" and why; asked once in a process."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        host, port = "", 0
    if parts.scheme != "http" or not host:
        return "", f"{URL_VARIABLE} must be http://…"
    found: list[str] = []
    asked = {vendor: _CLOUDS[vendor]} if vendor else _CLOUDS

    def ask() -> None:
        for cloud, region_of in asked.items():
            try:
                region = region_of(host, port)
            except (OSError, http.client.HTTPException, UnicodeDecodeError):
                continue
            if region:
                found.append(f"{cloud}:{region}")
                return

    thread = threading.Thread(target=ask, name="tracker-cloud", daemon=True)
    start_without_signals(thread)
    thread.join(LONGEST_S)
    if found:
        return found[0], ""
    how = "did not answer in time" if thread.is_alive() else "gave no region"
    who = f"the metadata service of {' or '.join(asked)}"
    return "", f"{who} {how}: is this machine in a cloud, and the service reachable?"


def _aws(host: str, port: int) -> str:
    token = _asked(host, port, "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    if not token.isprintable() or not token:
        return ""
    region = _asked(host, port, "GET", "/latest/meta-data/placement/region", {"X-aws-ec2-metadata-token": token})
    return region if _REGION.fullmatch(region) else ""


def _gcp(host: str, port: int) -> str:
    zone = _asked(host, port, "GET", "/computeMetadata/v1/instance/zone", {"Metadata-Flavor": "Google"})
    found = _GCP_ZONE.fullmatch(zone)
    return found[1] if found else ""


def _azure(host: str, port: int) -> str:
    path = "/metadata/instance/compute/location?api-version=2021-02-01&format=text"
    region = _asked(host, port, "GET", path, {"Metadata": "true"})
    return region if _REGION.fullmatch(region) else ""


_CLOUDS: Final = {"aws": _aws, "gcp": _gcp, "azure": _azure}


def _asked(host: str, port: int, method: str, path: str, headers: Mapping[str, str]) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=LONGEST_S)
    try:
        connection.request(method, path, headers=dict(headers))
        reply = connection.getresponse()
        body = reply.read(_MOST_BYTES + 1)
        is_short = reply.status == http.client.OK and len(body) <= _MOST_BYTES
        return body.decode("ascii").strip() if is_short else ""
    finally:
        connection.close()
