"""What a run keeps of how it was made, with secrets masked."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from tracker.records import Price
from tracker.settings import Settings

SECRET_NAME: Final = re.compile(r"token|key|secret|passw|credential|auth", re.IGNORECASE)
SHORTEST_SECRET: Final = 8  # what is shorter stands in other words by chance
MASK: Final = "***"
# Up to the last "@": a password may hold the signs that should have been escaped in it.
_URL_PASSWORD: Final = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^/\s:@]*):\S*@", re.IGNORECASE)
_URL_TOKEN: Final = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://)[^/\s:@]{16,}@", re.IGNORECASE)  # no name is as long
_URL_QUERY: Final = re.compile(rf"(?P<before>[?&][^=&\s]*(?:{SECRET_NAME.pattern})[^=&\s]*)=[^&\s]+", re.IGNORECASE)
_HEADER: Final = re.compile(rf"(?P<name>[\w-]*(?:{SECRET_NAME.pattern})[\w-]*\s*:\s*)\S.*", re.IGNORECASE | re.DOTALL)


def masked_url(text: str) -> str:
    """A text without the passwords and tokens of URLs in it."""
    text = _URL_PASSWORD.sub(rf"\g<before>:{MASK}@", text)
    text = _URL_TOKEN.sub(rf"\g<before>{MASK}@", text)
    return _URL_QUERY.sub(rf"\g<before>={MASK}", text)


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """The values of variables named like token, key, secret or password, the longest first."""
    found = {value for name, value in environ.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET}
    return sorted(found, key=len, reverse=True)


def masked_argv(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """A command line without its secrets.

    They are the values of options, variables and headers named like token, key, secret or password, what such variables
    of the environment hold, and the passwords of URLs.
    """
    secrets = secrets_of(environ)
    masked = []
    hides_next = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        header = _HEADER.fullmatch(argument)
        if hides_next and not argument.startswith("-"):
            masked.append(MASK)
        elif equals and "://" not in name and SECRET_NAME.search(name):
            masked.append(f"{name}={MASK}")
        elif header is not None and "://" not in argument:
            masked.append(f"{header['name']}{MASK}")
        else:
            for secret in secrets:
                argument = argument.replace(secret, MASK)
            masked.append(masked_url(argument))
        hides_next = not equals and argument.startswith("-") and bool(SECRET_NAME.search(argument))
    return masked


def settings_with_origin(settings: Settings) -> dict[str, Any]:
    """Each setting's value and where it came from."""
    out: dict[str, Any] = {}
    for item in fields(settings):
        if item.name in ("origins", "problems"):
            continue
        value = getattr(settings, item.name)
        value = masked_url(value) if isinstance(value, str) else str(value) if isinstance(value, Price) else value
        out[item.name] = {
            "value": list(value) if isinstance(value, tuple) else value,
            "origin": settings.origins.get(item.name, "default"),
        }
    return out


def versions() -> Mapping[str, str]:
    """Versions of what makes the figures. Only what is loaded already is asked."""
    out = {"tracker": tracker_version(), "python": platform.python_version(), "system": platform.system()}
    for module, label in (("numpy", "numpy"), ("sqlalchemy", "sqlalchemy")):
        loaded = sys.modules.get(module)
        if loaded is not None:
            out[label] = str(getattr(loaded, "__version__", ""))
    return out


def tracker_version() -> str:
    """The version of this package."""
    from tracker import __version__

    return __version__
