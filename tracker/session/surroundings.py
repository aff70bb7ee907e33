"""What kind of place this process runs in, from facts that name nobody."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from tracker.machine import hardware, has_boottime, this_boot
from tracker.sensors.cgroup import levels_of, tightest
from tracker.views.findings import SystemFound

_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h
_MARKS_OF_CONTAINERS: Final = (".dockerenv", "run/.containerenv", ".singularity.d", "run/systemd/container")
_SYSTEM_NAMES: Final = {"Darwin": "macOS"}


def surroundings(
    *,
    environ: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
    system: str | None = None,
    release: str | None = None,
) -> SystemFound:
    """Look at what this process runs on.

    Args:
        environ: of the process.
        root: the folder that holds proc/ and sys/.
        system, release: as the module platform names them; None: asked of it.
    """
    system = platform.system() if system is None else system
    release = platform.release() if release is None else release
    found = hardware(root / "proc")
    cpus = os.cpu_count()
    levels = levels_of(root / "proc", root / "sys/fs/cgroup") if system == "Linux" else []
    limit = tightest(levels, cpus or 1)
    sizes_bytes = [level.memory_bytes for level in levels if level.memory_bytes]
    memory_bytes = int(found["memory_bytes"]) if "memory_bytes" in found else None
    limit_bytes = min(sizes_bytes, default=None)
    return SystemFound(
        system=f"{_SYSTEM_NAMES.get(system, system)} {release} {platform.machine()}".strip(),
        places=tuple(_places(environ, root, release)),
        cpu=found.get("cpu", ""),
        logical_cpus=cpus,
        limit_cpus=limit.cpus if limit else None,
        memory_bytes=memory_bytes,
        # Version 1 shows a number beyond any memory where there is no limit.
        limit_memory_bytes=limit_bytes if limit_bytes and limit_bytes < (memory_bytes or 0) else None,
        pid_namespace=_pid_namespace(root),
        clock="CLOCK_BOOTTIME" if has_boottime() else "monotonic",
    )


def _places(environ: Mapping[str, str], root: Path, release: str) -> Iterator[str]:
    if "COLAB_RELEASE_TAG" in environ or "COLAB_GPU" in environ:
        yield "Google Colab"
    if "KAGGLE_KERNEL_RUN_TYPE" in environ:
        yield "Kaggle"
    if "microsoft" in release.lower():  # "5.15.153.1-microsoft-standard-WSL2"; the first WSL: "4.4.0-19041-Microsoft"
        yield "WSL 2" if "microsoft-standard" in release else "WSL 1"
    if "KUBERNETES_SERVICE_HOST" in environ:
        yield "Kubernetes"
    if "container" in environ or any(_exists(root / mark) for mark in _MARKS_OF_CONTAINERS):
        yield "container"
    if "hypervisor" in _cpu_flags(root):
        yield "virtual machine"
    if "SLURM_JOB_ID" in environ:
        yield "Slurm job"


def _pid_namespace(root: Path) -> Literal["machine", "own", "unknown"]:
    _, inode = this_boot(root / "proc")
    if inode == 0:
        return "unknown"
    return "machine" if inode == _FIRST_PID_NAMESPACE else "own"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _cpu_flags(root: Path) -> list[str]:
    try:
        first, _, _ = (root / "proc/cpuinfo").read_text(errors="replace").partition("\n\n")
    except OSError:
        return []
    return next((line.split() for line in first.splitlines() if line.startswith("flags")), [])
