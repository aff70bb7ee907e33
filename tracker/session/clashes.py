"""What hides this package, or the NVML binding that it needs, from a program that is started in some folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

import tracker

_BINDING: Final = "nvidia-ml-py"
_DEPRECATED_BINDING: Final = "pynvml"
_OURS: Final = "gpu-energy-tracker"


@dataclass(frozen=True, slots=True)
class Clash:
    """A name that is taken, with what to do."""

    text: str
    is_fatal: bool = True  # something does not work, rather than is not as it should be


def clashes(cwd: Path, path: Sequence[str] | None = None) -> list[Clash]:
    """Names that are taken by others.

    Args:
        cwd: the folder of a program: it is searched first.
        path: where modules are searched after that; None: sys.path.
    """
    searched = [entry for entry in (sys.path if path is None else path) if entry]
    return [*_hides_package(cwd, searched), *_hides_binding(cwd, searched), *_shares_our_name(searched)]


def _hides_package(cwd: Path, path: Sequence[str]) -> Iterator[Clash]:
    found = _origin("tracker", [str(cwd), *path])
    if found is None or _is_same(found, Path(tracker.__file__)):
        return
    place = found.parent if found.name == "__init__.py" else found
    yield Clash(
        f"{place} hides this package: `import tracker` in a program of this folder finds it instead; rename it, or use "
        "`tracker run -- python script.py`"
    )


def _hides_binding(cwd: Path, path: Sequence[str]) -> Iterator[Clash]:
    found = _origin("pynvml", [str(cwd), *path])
    binding, deprecated = _distribution(_BINDING, path), _distribution(_DEPRECATED_BINDING, path)
    if found is None or binding is None:  # the sensor says so
        return
    if not _is_same(found, Path(str(binding.locate_file("pynvml.py")))):
        remedy = (
            f"pip uninstall -y pynvml && pip install --force-reinstall --no-deps {_BINDING}"
            if deprecated
            else "rename it"
        )
        yield Clash(f"{found} hides NVIDIA's binding pynvml (of {_BINDING}): {remedy}")
    elif deprecated is not None:
        yield Clash(
            f"the distribution pynvml {deprecated.version} is deprecated and not needed beside {_BINDING}: "
            "pip uninstall pynvml",
            is_fatal=False,
        )


def _shares_our_name(path: Sequence[str]) -> Iterator[Clash]:
    """Another distribution whose files lie among ours: whichever was installed later has overwritten the other."""
    for distribution in distributions(path=list(path)):
        name = distribution.metadata["Name"] or ""
        if name.lower().replace("_", "-") != _OURS and _brings_tracker(distribution):
            yield Clash(
                f"the distribution {name} also installs a package called tracker: pip uninstall -y {name} && "
                f"pip install --force-reinstall --no-deps {_OURS}"
            )


def _brings_tracker(distribution: Distribution) -> bool:
    names = (distribution.read_text("top_level.txt") or "").split()
    return "tracker" in names or any(
        str(file) in ("tracker.py", "tracker/__init__.py") for file in (() if names else distribution.files or ())
    )


def _origin(name: str, path: Sequence[str]) -> Path | None:
    """The file that an import would load; None: none there, or a folder that is no package."""
    spec = PathFinder.find_spec(name, path)
    return Path(spec.origin) if spec is not None and spec.origin else None


def _distribution(name: str, path: Sequence[str]) -> Distribution | None:
    return next(iter(distributions(name=name, path=list(path))), None)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
