"""What several commands share: options, and how words of the command line are read."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from tracker import settings as settings_module

_TOLD_WIDTH: Final = 40
_AGO_UNITS_S: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def db_option(function: Any) -> Any:
    """--db"""
    return click.option("--db", metavar="DB", help="Database file or SQLAlchemy URL (TRACKER_DB).")(function)


def json_option(function: Any) -> Any:
    """--json"""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, with the keys of Run.to_dict().")(function)


def database(db: str | None) -> str | None:
    """The database as given, when nothing in the environment or a file is wrong."""
    given = {} if db is None else {"db": db}
    refuse_problems(given)
    return db


def refuse_problems(given: dict[str, Any]) -> None:
    """Refuse wrong values in the environment or a file, which Python code only names."""
    from tracker.session.checks import CHECKS

    resolved = settings_module.resolve(given, checks=CHECKS)
    if resolved.problems:
        raise click.UsageError("; ".join(problem.removesuffix("; ignored") for problem in resolved.problems))


def tag(given: str) -> tuple[str, str]:
    """NAME=TEXT as its two parts."""
    name, equals, value = given.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{given!r}: write NAME=TEXT", param_hint="--tag")
    return name, value


def instant(given: str | None, option: str) -> datetime | None:
    """An instant from "24h" (ago) or an ISO date or time; without offset it is in the local time zone."""
    if given is None:
        return None
    number, unit = given[:-1], given[-1:]
    if unit in _AGO_UNITS_S and number.isdecimal():
        return datetime.now(UTC) - timedelta(seconds=int(number) * _AGO_UNITS_S[unit])
    try:
        return datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f'{given!r}: write "2026-11-01", "2026-11-01T12:00" or "24h"', param_hint=option
        ) from None


def json_of(value: Any) -> str:
    """JSON of plain types, in ASCII, for any reader."""
    return json.dumps(_without_nan(value), ensure_ascii=True, indent=2, allow_nan=False)


def _without_nan(value: Any) -> Any:
    """NaN and infinity are not JSON: null stands for them."""
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value


def tell(text: str) -> None:
    """Show on a terminal how far long work has come, over what was shown before; "" clears it. Elsewhere nothing."""
    if sys.stderr.isatty():
        click.echo(f"\r{text:<{_TOLD_WIDTH}}" + ("" if text else "\r"), nl=False, err=True)


def takes(letters: str) -> bool:
    """Whether standard output can show these."""
    try:
        letters.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
