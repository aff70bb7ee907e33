"""Runs that the same device was charged to at the same time."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Final

import sqlalchemy as sa

from tracker.store import tables
from tracker.units import MICROSECONDS_PER_S

_LISTED: Final = 3
_SILENCE_US: Final = 3 * MICROSECONDS_PER_S  # a living run commits each second
_UNFINISHED: Final = 200


def unfinished_runs(connection: sa.Connection) -> list[str]:
    """The newest runs that have not ended, those of killed processes among them."""
    return list(connection.scalars(_unfinished()))


@cache
def _unfinished() -> sa.Select[tuple[str]]:
    runs = tables.runs.c
    query = sa.select(runs.id).where(runs.status == "running").order_by(runs.started_unix_us.desc())
    return query.limit(_UNFINISHED)


def overlapping_runs(
    connection: sa.Connection,
    run_id: str,
    parent_id: str | None,
    keys: Collection[str],
    from_us: int,
    to_us: int,
    begun_before: Collection[str],
    host: str | None = None,
) -> list[str]:
    """Other runs on this run's machines that one of its devices was charged to meanwhile; the newest few.

    A run and its parts overlap by nature and are not meant.

    Args:
        keys: of the devices that matter.
        from_us, to_us: the run's start and end, µs since 1970.
        begun_before: unfinished_runs when it started, so that those long over need not be gone through.
        host: the run's machine; None: those that the database has for it.
    """
    values = {
        "of_run": run_id,
        "of_parent": parent_id or "",
        "keys": list(keys),
        "from_us": from_us,
        "to_us": to_us,
        "begun_before": list(begun_before),
        **({} if host is None else {"of_host": host}),
    }
    return list(connection.scalars(_overlapping(host is not None), values))


@cache
def _overlapping(is_of_host: bool) -> sa.Select[tuple[str]]:
    """Put together once: SQLAlchemy takes 4 ms for it (measured), which each stop waited for."""
    run_id, from_us = sa.bindparam("of_run", type_=sa.Text), sa.bindparam("from_us", type_=sa.BigInteger)
    runs, devices, segments = tables.runs.c, tables.devices.c, tables.segments.c
    own = tables.devices.alias().c
    of_own = devices.host.in_(sa.select(own.host).where(own.run_id == run_id))
    is_beside = devices.host == sa.bindparam("of_host", type_=sa.Text) if is_of_host else of_own
    last_us = sa.select(sa.func.max(segments.last_commit_unix_us)).where(segments.run_id == runs.id).scalar_subquery()
    return (
        sa.select(runs.id)
        .join(tables.devices)
        .where(
            sa.or_(
                runs.started_unix_us.between(from_us, sa.bindparam("to_us", type_=sa.BigInteger)),
                runs.id.in_(sa.bindparam("begun_before", expanding=True)),
            ),
            sa.func.coalesce(runs.ended_unix_us, last_us + _SILENCE_US) > from_us,
            runs.id != run_id,
            runs.id != sa.bindparam("of_parent", type_=sa.Text),
            sa.or_(runs.parent_id.is_(None), runs.parent_id != run_id),
            devices.key.in_(sa.bindparam("keys", expanding=True)),
            is_beside,
        )
        .group_by(runs.id, runs.started_unix_us)
        .order_by(runs.started_unix_us.desc())
        .limit(_LISTED)
    )
