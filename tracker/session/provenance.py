"""What a run keeps of how it was made, with secrets masked."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from tracker.records import Price
from tracker.settings import Settings

SECRET_NAME: Final = re.compile(r"token|key|secret|passw|credential|auth", re.IGNORECASE)
_URL_PASSWORD: Final = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^/\s:@]*):[^/\s@]*@", re.IGNORECASE)
MASK: Final = "***"


def masked_url(text: str) -> str:
    """A text without the passwords of URLs in it."""
    return _URL_PASSWORD.sub(rf"\g<before>:{MASK}@", text)


def masked_argv(argv: Sequence[str]) -> list[str]:
    """A command line without the values of options and variables named like token, key, secret or password."""
    masked = []
    hides_next = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if hides_next and not argument.startswith("-"):
            masked.append(MASK)
        elif equals and SECRET_NAME.search(name):
            masked.append(f"{name}={MASK}")
        else:
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
