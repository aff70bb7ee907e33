"""Every error this package raises.

TrackerError
├── SettingError (also ValueError)   a wrong argument or setting: what, where from, what to do
│   └── UnknownZoneError             a zone no table knows; carries the near matches
├── SensorError                      a source of readings that cannot be used here, with the reason
│   └── TraceError                   a file given for replay that is no trace
└── StoreError                       the database: the message says which one
    ├── NotADatabaseError            the file is something else
    ├── SchemaTooNewError            written by a newer tracker
    └── RunNotFoundError             no run, or more than one, under that id
"""

from collections.abc import Sequence


class TrackerError(Exception):
    """The root: catch this to catch everything of ours."""


class SettingError(TrackerError, ValueError):
    """A wrong argument or setting."""


class UnknownZoneError(SettingError):
    """A zone that no table knows.

    Attributes:
        zone: what was asked for.
        near: zone codes that look like it, best first; may be empty.
    """

    def __init__(self, message: str, *, zone: str, near: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.zone = zone
        self.near = tuple(near)


class SensorError(TrackerError):
    """A source of readings that cannot be used here.

    Attributes:
        remedy: the command or setting that mends it, or "" where none is known.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class TraceError(SensorError):
    """A file given for replay that is no trace."""


class StoreError(TrackerError):
    """The database cannot be opened, read or written."""


class NotADatabaseError(StoreError):
    """The file is not an SQLite database, or not one of ours."""


class SchemaTooNewError(StoreError):
    """The database was written by a newer tracker than this one."""


class RunNotFoundError(StoreError):
    """No run has this id or prefix, or more than one has the prefix."""
