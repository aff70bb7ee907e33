"""One request to a grid API: bounded in time and size, believed only where status, type and host fit.

The one module that imports requests.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urljoin, urlsplit

from tracker.errors import (
    ForbiddenError,
    NotServedError,
    OfflineError,
    RateLimitedError,
    SettingError,
    TemporaryError,
    UnauthorisedError,
    UnbelievableError,
)
from tracker.intensity.providers.series import shown

if TYPE_CHECKING:
    import requests

    Params = Sequence[tuple[str, str]]

USER_AGENT: Final = "gpu-energy-tracker (https://pypi.org/project/gpu-energy-tracker/)"
MAX_BODY_BYTES: Final = 16 * 1024 * 1024  # a year of 5-minute values is 10 MB
_MAX_REDIRECTS: Final = 3
_MAX_RETRY_AFTER_S: Final = 86_400.0
_READ_BYTES: Final = 65_536
_MIN_SECRET: Final = 4  # a shorter part would blank half of the message


def utc_now() -> datetime:
    """The time of the wall clock."""
    return datetime.now(UTC)


def unlimited() -> None:
    """Every request may go out."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a provider is reached.

    Attributes:
        provider: its title, with which every message begins.
        variable: what its settings begin with: "TRACKER_EIA".
        url: base address, without a slash at its end.
        offline: nothing may go out.
        before_request: called before each request; what it raises keeps that request from going out.
        connect_s, read_s: longest wait for a connection, and between two pieces of the answer.
        total_s: the body must be there after this.
    """

    provider: str
    variable: str
    url: str
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    before_request: Callable[[], None] = field(default=unlimited, repr=False)
    connect_s: float = 3.0
    read_s: float = 5.0
    total_s: float = 10.0
    now: Callable[[], datetime] = field(default=utc_now, repr=False)
    monotonic_s: Callable[[], float] = field(default=time.monotonic, repr=False)

    def needed_token(self) -> str:
        """The token.

        Raises:
            UnauthorisedError: there is none.
        """
        if self.token is None:
            raise UnauthorisedError(f"{self.provider}: needs a token; set {self.variable}_TOKEN")
        return self.token


def access(
    name: str,
    title: str,
    default_url: str,
    environ: Mapping[str, str],
    *,
    offline: bool = False,
    before_request: Callable[[], None] = unlimited,
    now: Callable[[], datetime] = utc_now,
) -> Access:
    """How a provider is reached by TRACKER_<NAME>_URL and TRACKER_<NAME>_TOKEN. What a request needs is imported here.

    Args:
        default_url: "" for a plug-in, which has its own.

    Raises:
        SettingError: the URL is none, or holds a password; or the token cannot be one. It does not show either.
    """
    variable = f"TRACKER_{name.upper()}"
    url = environ.get(f"{variable}_URL") or default_url
    token = environ.get(f"{variable}_TOKEN", "").strip() or None
    if url and (fault := _fault_of(url)):
        raise SettingError(f"{variable}_URL: {fault}")
    if token is not None and not token.isprintable():
        raise SettingError(f"{variable}_TOKEN: holds a line break or another control character; copy it again")
    # Not in the fetching thread: a fork meanwhile would hang the child at its import.

    import requests  # noqa: F401

    return Access(title, variable, url.rstrip("/"), token, offline, before_request, now=now)


def _fault_of(url: str) -> str:
    """What is wrong with a base address; "" where nothing is. It does not show the address."""
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_web = False
    if not is_web or parts.query or parts.fragment:
        return "must be http://… or https://…, without a query"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or password"
    return ""


def fetch_json(
    source: Access, path: str, params: Params = (), *, headers: Mapping[str, str] | None = None, secret: str = ""
) -> object:
    """The JSON that one GET answers.

    Args:
        source: where, with what, and within which bounds.
        path: below the base address.
        params: sent as the query.
        headers: sent beside our own.
        secret: one more text that must not be shown, beside the token.

    Raises:
        OfflineError, UnauthorisedError, ForbiddenError, NotServedError, RateLimitedError, TemporaryError: by its
            status, or because no answer came.
        UnbelievableError: it is not JSON, too long, or sends us to another host.
    """
    if source.offline:
        raise OfflineError(f"{source.provider}: not asked, TRACKER_OFFLINE is set")
    secrets = _secrets(source.token or "", secret)
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": USER_AGENT, **(headers or {})}
    if not all(value.isascii() and value.isprintable() for value in headers.values()):
        raise UnauthorisedError(f"{source.provider}: {source.variable}_TOKEN holds characters that no token has")
    url = source.url + path
    for _ in range(_MAX_REDIRECTS + 1):
        source.before_request()
        reply = _reply(source, url, params, headers, secrets)
        if isinstance(reply, str):  # raised here, so that no exception with the URL in it hangs on ours
            raise TemporaryError(f"{source.provider}: {reply}")
        if not 300 <= reply.status < 400:
            return _believed(source, reply, secrets)
        url, params = _redirected(source, url, reply.location), ()
    raise UnbelievableError(f"{source.provider}: redirects in a circle")


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    content_type: str
    retry_after: str
    location: str
    body: bytes
    is_whole: bool


def _reply(
    source: Access, url: str, params: Params, headers: Mapping[str, str], secrets: Sequence[str]
) -> _Reply | str:
    """The reply, or in words why there is none."""
    import requests
    import urllib3

    deadline_s = source.monotonic_s() + source.total_s
    try:
        with (
            _unlogged(secrets),
            requests.Session() as session,
            session.get(
                url,
                params=list(params),
                headers=headers,
                auth=_as_given,
                timeout=(source.connect_s, source.read_s),
                stream=True,
                allow_redirects=False,
            ) as response,
        ):
            body, is_whole = bytearray(), True
            # read1 comes back after each piece: read would wait for all that was asked, however slowly it drips.
            while piece := response.raw.read1(_READ_BYTES, decode_content=False):
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    is_whole = False
                    break
                if source.monotonic_s() > deadline_s:
                    return f"the answer was not complete after {source.total_s:g} s"
            given = response.headers
            encoding = given.get("Content-Encoding", "identity").lower()
            return _Reply(
                status=response.status_code,
                content_type=given.get("Content-Type", "") if encoding == "identity" else f"{encoding} data",
                retry_after=given.get("Retry-After", ""),
                location=given.get("Location", ""),
                body=bytes(body),
                is_whole=is_whole,
            )
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        return f"no answer (waited {source.connect_s:g} s to connect, {source.read_s:g} s for data)"
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
        return f"cannot be reached ({_cause(exc)})"


def _as_given(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """No change: with an auth of ours, requests does not put a password of the user's .netrc in place of the token."""
    return request


def _cause(exc: BaseException) -> str:
    """The innermost name for what went wrong; never the text, which has the URL in it."""
    inner = exc.args[0] if exc.args else None
    inner = getattr(inner, "reason", inner)
    return type(inner if isinstance(inner, Exception) else exc).__name__


def _secrets(*given: str) -> tuple[str, ...]:
    """The texts to blank, the longest first: each token, and the parts of one like "user:password"."""
    parts = {part for text in given for part in (text, *text.split(":")) if len(part) >= _MIN_SECRET}
    return tuple(sorted(parts, key=len, reverse=True))


def _blanked(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


@contextmanager
def _unlogged(secrets: Sequence[str]) -> Iterator[None]:
    """urllib3 logs each address at level debug, and some services want their token there."""

    def blank(record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_blanked(arg, secrets) if isinstance(arg, str) else arg for arg in record.args)
        return True

    logger = logging.getLogger("urllib3.connectionpool")
    logger.addFilter(blank)
    try:
        yield
    finally:
        logger.removeFilter(blank)


def _redirected(source: Access, url: str, location: str) -> str:
    there = urljoin(url, location)
    try:
        is_same = urlsplit(there)[:2] == urlsplit(url)[:2]
        host = urlsplit(there).hostname
    except ValueError:
        is_same, host = False, "an address that is none"
    if not location or not is_same:
        raise UnbelievableError(
            f"{source.provider}: sends its callers on to {host or 'nowhere'}; the token is not taken there. "
            f"If that is right, set {source.variable}_URL"
        )
    return there


def _believed(source: Access, reply: _Reply, secrets: Sequence[str]) -> object:
    who = source.provider
    if reply.status != 200:
        _refuse(source, reply, secrets)
    if not reply.is_whole:
        raise UnbelievableError(f"{who}: the answer is longer than {MAX_BODY_BYTES} bytes")
    if "json" not in reply.content_type.lower():
        kind = _blanked(shown(reply.content_type), secrets)
        raise UnbelievableError(f"{who}: answered {kind or 'something'} in place of JSON: {_quoted(reply, secrets)}")
    try:
        return json.loads(reply.body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        pass
    raise UnbelievableError(f"{who}: answered something that is not JSON: {_quoted(reply, secrets)}")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _refuse(source: Access, reply: _Reply, secrets: Sequence[str]) -> NoReturn:
    """The error for a status other than 200."""
    said = f"({reply.status}: {_quoted(reply, secrets)})"
    who, status = source.provider, reply.status
    wait_s = _retry_after_s(reply.retry_after, source.now())
    if status == 401:
        what = f"refused {source.variable}_TOKEN" if source.token else f"wants a token; set {source.variable}_TOKEN"
        raise UnauthorisedError(f"{who}: {what} {said}")
    if status == 403 and source.token:
        raise ForbiddenError(f"{who}: not allowed with this token {said}")
    if status in (403, 429):  # without a token nothing but the address of the caller can be refused
        raise RateLimitedError(f"{who}: asked too often {said}", retry_after_s=wait_s)
    if status in (408, 425) or status >= 500:
        raise TemporaryError(f"{who}: cannot answer now {said}", retry_after_s=wait_s)
    if 400 <= status < 500:
        raise NotServedError(f"{who}: does not know what was asked {said}")
    raise UnbelievableError(f"{who}: answered neither values nor an error {said}")


def _retry_after_s(text: str, now: datetime) -> float | None:
    """Seconds of a Retry-After, which is a number or a date; at most a day, whatever it says.

    Source: RFC 9110, section 10.2.3.
    """
    try:
        seconds = float(text) if text.isdigit() else (parsedate_to_datetime(text) - now).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S)


def _quoted(reply: _Reply, secrets: Sequence[str]) -> str:
    """How the body begins, for a message."""
    text = reply.body[:_READ_BYTES].decode("utf-8", "replace")
    if "<html" in text.lower() or "<!doctype" in text.lower():
        return "a web page"
    return shown(_blanked(text, secrets)) or "an empty body"
