"""Settings from arguments, environment and files, each value with its origin."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tracker.errors import SettingError
from tracker.records import Price
from tracker.trust import is_planted

GpuChoice = Literal["visible", "all", "none"] | tuple[int | str, ...]

MAX_INTERVAL_S: Final = 600.0
MAX_TEXT_LENGTH: Final = 10_000
MAX_PRICE_PER_KWH: Final = 1e9  # of a currency that has lost its worth, too
EXAMPLE_TRACE: Final = Path(__file__).parent / "sensors" / "data" / "trace_8gpu.csv.gz"
_MOST_CHARS: Final = 2**20  # of a file of settings
RUN_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PRICE: Final = re.compile(
    r"\s*(?P<number>[0-9]{1,15}(\.[0-9]{0,15})?|\.[0-9]{1,15})\s*(?P<currency>[A-Za-z]{3})(\s*/\s*kWh)?\s*"
)

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off", ""})


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a run.

    Attributes:
        db: an absolute path or an SQLAlchemy URL.
        intensity_file: a series of intensities of the user's own.
        price_per_kwh: of electricity; None: no cost is told.
        provider: who is asked for the grid's intensity: a name, a name and its own zone behind a colon, or "auto".
        interval_s: sampling period; None: 1 s, and 0.1 s for a GPU without an energy counter.
        origins: for each setting, where its value came from.
        problems: wrong values in the environment or a file, each said once with its origin; the next source held.
    """

    db: str
    project: str | None = None
    zone: str | None = None
    intensity_g_per_kwh: float | None = None
    intensity_file: str | None = None
    provider: str | None = None
    pue: float = 1.0
    price_per_kwh: Price | None = None
    interval_s: float | None = None
    gpus: GpuChoice = "visible"
    replay: str | None = None
    sysfs: str = "/sys"
    run_id: str | None = None
    parent_id: str | None = None
    store_argv: bool = True
    offline: bool = False
    disabled: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def text(value: object) -> str:
    """A name as people write it; refused only where a database could not give it back unchanged."""
    if not isinstance(value, str):
        raise TypeError(f"must be text, not {type(value).__name__}")
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"is not valid Unicode text (lone surrogate at position {exc.start})") from None
    if len(value) > MAX_TEXT_LENGTH:
        raise ValueError(f"is {len(value)} characters long; at most {MAX_TEXT_LENGTH} are kept")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"must be a number, not {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"must be a finite number, not {value!r}")
    return number


def _intensity(value: object) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError(f"must be 0 g/kWh or more, not {value!r}")
    return number


def _pue(value: object) -> float:
    number = _number(value)
    if not 1 <= number <= 10:
        raise ValueError(f"must be 1 (IT energy only) to 10, not {value!r}")
    return number


def _price(value: object) -> Price:
    """ "0.30 EUR": without its currency a price says nothing, and none is guessed."""
    found = _PRICE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f'must be a number with its currency in three letters, such as "0.30 EUR", not {value!r}')
    number = _number(found["number"])
    if number > MAX_PRICE_PER_KWH:
        raise ValueError(f"must be at most {MAX_PRICE_PER_KWH:g} a kWh, not {value!r}")
    return Price(number, found["currency"].upper())


def _interval(value: object) -> float:
    number = _number(value)
    if not 0 < number <= MAX_INTERVAL_S:
        raise ValueError(f"must be above 0 and at most {MAX_INTERVAL_S:g} seconds, not {value!r}")
    return number


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"must be 1 or 0, not {value!r}")


def _gpus(value: object) -> GpuChoice:
    if isinstance(value, str):
        word = value.strip()
        if word.lower() in ("visible", "all", "none"):
            return word.lower()  # type: ignore[return-value]
        value = [part.strip() for part in word.split(",")]
    if isinstance(value, int) or not isinstance(value, Sequence):
        raise TypeError(f'must be "visible", "all", "none" or a list of indices and UUIDs, not {value!r}')
    chosen: list[int | str] = []
    for part in value:
        if isinstance(part, bool) or not isinstance(part, (int, str)):
            raise TypeError(f"each GPU must be an index or a UUID, not {part!r}")
        if isinstance(part, str) and part.isdecimal():
            part = int(part)
        if isinstance(part, int) and part < 0:
            raise ValueError(f"a GPU index must be 0 or more, not {part}")
        if isinstance(part, str) and not part.startswith(("GPU-", "MIG-")):
            raise ValueError(f'a GPU must be an index, "GPU-…" or "MIG-…", not {part!r}')
        chosen.append(part)
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"names a GPU twice: {value!r}")
    return tuple(chosen)


def _run_id(value: object) -> str:
    word = text(value)
    if word == "last" or not RUN_ID_PATTERN.fullmatch(word):
        raise ValueError(f'must be 1 to 64 of A-Z a-z 0-9 . _ - and not "last", not {word[:80]!r}')
    return word


def _filled(value: object) -> str:
    word = text(value)
    if not word.strip():
        raise ValueError("must not be empty")
    return word


def _path(value: object) -> str:
    return _filled(os.fspath(value) if isinstance(value, os.PathLike) else value)


def _replay(value: object) -> str:
    """A path, or "example": the trace that comes with the package."""
    word = _path(value)
    return str(EXAMPLE_TRACE) if word.strip() == "example" else word


@dataclass(frozen=True, slots=True)
class _Spec:
    name: str
    variable: str
    read: Callable[[object], Any]
    is_path: bool = False


_SPECS: Final = (
    _Spec("db", "TRACKER_DB", _path, is_path=True),
    _Spec("project", "TRACKER_PROJECT", text),
    _Spec("zone", "TRACKER_ZONE", _filled),
    _Spec("intensity_g_per_kwh", "TRACKER_INTENSITY", _intensity),
    _Spec("intensity_file", "TRACKER_INTENSITY_FILE", _path, is_path=True),
    _Spec("provider", "TRACKER_PROVIDER", _filled),
    _Spec("pue", "TRACKER_PUE", _pue),
    _Spec("price_per_kwh", "TRACKER_PRICE", _price),
    _Spec("interval_s", "TRACKER_INTERVAL", _interval),
    _Spec("gpus", "TRACKER_GPUS", _gpus),
    _Spec("replay", "TRACKER_REPLAY", _replay, is_path=True),
    _Spec("sysfs", "TRACKER_SYSFS", _path, is_path=True),
    _Spec("run_id", "TRACKER_RUN_ID", _run_id),
    _Spec("parent_id", "TRACKER_PARENT_ID", _run_id),
    _Spec("store_argv", "TRACKER_STORE_ARGV", _flag),
    _Spec("offline", "TRACKER_OFFLINE", _flag),
    _Spec("disabled", "TRACKER_DISABLED", _flag),
)
VARIABLES: Final[Mapping[str, str]] = {spec.name: spec.variable for spec in _SPECS}


def checked_argument(name: str, value: object) -> Any:
    """An argument of track() as its setting reads it.

    Raises:
        SettingError: (a ValueError) the value is wrong.
        TypeError: it is of the wrong type.
    """
    spec = next(spec for spec in _SPECS if spec.name == name)
    try:
        return _absolute(spec.read(value), Path.cwd()) if spec.is_path else spec.read(value)
    except TypeError as exc:
        raise TypeError(f"{name} {exc}") from None
    except ValueError as exc:
        raise SettingError(f"{name} {exc}") from None


def resolve(
    arguments: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user_config: Path | None = None,
    checks: Mapping[str, Callable[[Any, str], Any]] | None = None,
) -> Settings:
    """The settings that hold: argument, else environment, else the nearest file, else the user's file, else default.

    Args:
        arguments: checked values by setting name; those that were not given are absent.
        environ: default os.environ.
        cwd: where the search for tracker.toml and pyproject.toml starts; default the current folder.
        user_config: default config.toml in the user's config folder.
        checks: what only a higher room can judge (a zone), by setting name: called with the value and its
            origin, raises ValueError.

    Returns:
        Never raises for the environment or a file: what is wrong there is in problems, and the next source holds.
    """
    environ = os.environ if environ is None else environ
    cwd = cwd or Path.cwd()
    checks = checks or {}
    problems: list[str] = []
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    sources = [
        *_project_file(cwd, problems),
        *_user_file(user_config, problems),
    ]
    for spec in _SPECS:
        if spec.name in arguments:
            values[spec.name], origins[spec.name] = arguments[spec.name], "argument"
            continue
        candidates = [(environ[spec.variable], spec.variable, cwd)] if environ.get(spec.variable) else []
        candidates += [
            (table[spec.name], f"{path}: {spec.name}", path.parent) for path, table in sources if spec.name in table
        ]
        for raw, origin, base in candidates:
            try:
                value = spec.read(raw)
                value = _absolute(value, base) if spec.is_path else value
                values[spec.name] = checks[spec.name](value, origin) if spec.name in checks else value
            except SettingError as exc:  # from a check, which names the origin itself
                problems.append(f"{exc}; ignored")
                continue
            except (TypeError, ValueError) as exc:
                problems.append(f"{origin} {exc}; ignored")
                continue
            origins[spec.name] = origin
            break
        else:
            origins[spec.name] = "default"
    if "db" not in values:
        values["db"] = str(default_db())
    return Settings(**values, origins=origins, problems=tuple(problems))


def has_grid(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether anything is configured that tells the grid's intensity over time: a provider, a file, or a token."""
    has_token = any(name.startswith("TRACKER_") and name.endswith("_TOKEN") and environ[name] for name in environ)
    return settings.provider is not None or settings.intensity_file is not None or has_token


def user_folder(kind: Literal["data", "config", "state"]) -> Path | None:
    """Where this user keeps such things of the tracker's; None: the user has no home, as a container's bare number."""
    import platformdirs

    find = {
        "data": platformdirs.user_data_path,
        "config": platformdirs.user_config_path,
        "state": platformdirs.user_state_path,
    }[kind]
    try:
        folder = find("tracker", appauthor=False)
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # "~/…", from older versions


def default_db() -> Path:
    """runs.db in the user's data folder; without a home in a folder of the user's own among the temporary ones."""
    folder = user_folder("data")
    if folder is not None:
        return folder / "runs.db"
    import tempfile

    private = Path(tempfile.gettempdir()) / f"gpu-energy-tracker-{os.getuid()}"
    with suppress(OSError):
        if is_planted(private):
            return Path.cwd() / "runs.db"
    return private / "runs.db"


def _absolute(value: str, base: Path) -> str:
    """A path made absolute, so that a later chdir of the program changes nothing; a URL as it is."""
    if "://" in value:
        return value
    with suppress(RuntimeError):  # no such user, or no home
        return os.path.normpath(base / Path(value).expanduser())
    return os.path.normpath(base / value)


def _project_file(start: Path, problems: list[str]) -> list[tuple[Path, Mapping[str, Any]]]:
    for folder in (start, *start.parents):
        for path, keys in ((folder / "tracker.toml", ()), (folder / "pyproject.toml", ("tool", "tracker"))):
            table = _table(path, keys, problems)
            if table is not None:
                return [(path, table)]
    return []


def _user_file(path: Path | None, problems: list[str]) -> list[tuple[Path, Mapping[str, Any]]]:
    if path is None:
        folder = user_folder("config")
        if folder is None:
            return []
        path = folder / "config.toml"
    table = _table(path, (), problems)
    return [] if table is None else [(path, table)]


def _table(path: Path, keys: tuple[str, ...], problems: list[str]) -> Mapping[str, Any] | None:
    """The settings table of a file; None where the file is absent or has none."""
    try:
        if is_planted(path):
            problems.append(f"{path}: another user has put it there; ignored")
            return None
        with path.open(encoding="utf-8") as file:
            content = file.read(_MOST_CHARS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as exc:
        problems.append(f"{path}: cannot be read ({exc}); ignored")
        return None
    if keys and keys[-1] not in content:  # most projects' pyproject.toml: spare them the parse
        return None
    import tomllib

    try:
        table: Any = tomllib.loads(content)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        problems.append(f"{path}: is not valid TOML ({exc}); ignored")
        return None
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    if not isinstance(table, Mapping):
        return None
    problems.extend(_unknown_keys(path, table))
    return table


def _unknown_keys(path: Path, table: Mapping[str, Any]) -> list[str]:
    import difflib

    said = []
    for key in table:
        if key not in VARIABLES:
            near = difflib.get_close_matches(key, VARIABLES, n=1)
            said.append(f"{path}: no setting is called {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return said


def checked_text(name: str, value: object) -> str:
    """An argument that is a text.

    Raises:
        SettingError, TypeError: as checked_argument.
    """
    try:
        return text(value)
    except TypeError as exc:
        raise TypeError(f"{name} {exc}") from None
    except ValueError as exc:
        raise SettingError(f"{name} {exc}") from None


def checked_tags(tags: object) -> dict[str, str]:
    """The argument tags.

    Raises:
        SettingError, TypeError: as checked_argument.
    """
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags must map names to texts, not {type(tags).__name__}")
    return {checked_text("a tag's name", key): checked_text(f"tag {key!r}", value) for key, value in tags.items()}
