"""Every error this package raises.

TrackerError
├── SettingError (also ValueError)   a wrong argument or setting: what, where from, what to do
│   └── UnknownZoneError             a zone no table knows; carries the near matches
├── ProviderError                    a source of grid intensity that gave no answer one can use
│   ├── IntensityFileError           (also SettingError) the user's own file: which line, what to write
│   ├── UnauthorisedError            no token, or one that was refused: what to set
│   ├── ForbiddenError               the token's plan does not include what was asked
│   ├── NotServedError               the source does not know the zone or the time
│   ├── OfflineError                 nothing may go out
│   ├── UnbelievableError            an answer that cannot be true: HTML, another zone, made-up data
│   └── TemporaryError               worth another try; carries retry_after_s
│       └── RateLimitedError         asked too often
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


class ProviderError(TrackerError):
    """A source of grid intensity gave no answer one can use. No message of these holds a token."""


class IntensityFileError(ProviderError, SettingError):
    """The user's own file of intensities cannot be read as one."""


class UnauthorisedError(ProviderError):
    """There is no token, or it was refused: asking again changes nothing until the settings do."""


class ForbiddenError(ProviderError):
    """The token is good, but its plan does not include this zone, time or series."""


class NotServedError(ProviderError):
    """The source does not know the zone, or has nothing of that time."""


class OfflineError(ProviderError):
    """The source is on the network, and TRACKER_OFFLINE says that nothing may go out."""


class UnbelievableError(ProviderError):
    """There is an answer, and it cannot be true or is not the one asked for."""


class TemporaryError(ProviderError):
    """The source did not answer, or said that it cannot now.

    Attributes:
        retry_after_s: how long the source asks to be left alone; None where it did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimitedError(TemporaryError):
    """The source was asked too often."""


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
