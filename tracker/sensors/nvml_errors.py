"""What NVML's return codes mean for measuring: what is done about each, and what a person can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

# What to do about a reading that has failed:
# wait: it may pass by itself. At the next tick again; after some failures in a row now and then only.
# find: the GPU has gone, or its handle is stale. Now and then it is looked up anew by its UUID.
# init: NVML is not, or no longer, initialised. At once, then now and then, it is initialised again.
# drop: asking again gives the same answer. Asked for no more, where it is so from the start.
Action = Literal["wait", "find", "init", "drop"]


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """One return code.

    Attributes:
        reason: for people, after the name of what has failed.
        remedy: the command or act that mends it, "" where none is known; {gpu} stands for the GPU's index.
    """

    action: Action
    reason: str
    remedy: str = ""


_RESET: Final = "sudo nvidia-smi --gpu-reset -i {gpu}, with nothing running on it; else reboot"
_RELOAD: Final = "sudo reboot, or with no GPU in use: sudo modprobe -r nvidia_uvm nvidia_drm nvidia_modeset nvidia &&"

# Codes: nvmlReturn_t of nvml.h, nvidia-nvml-dev 13.5.37. What to do: knowledge, measurement 1.6.
_RULES: Final[Mapping[int, ErrorRule]] = {
    1: ErrorRule("init", "NVML is not initialised"),
    2: ErrorRule("find", "the driver no longer knows it"),  # for a field: the driver is too old for it
    3: ErrorRule("drop", "not supported"),
    4: ErrorRule("drop", "no permission", "ls -l /dev/nvidia*, then join the group that may read them"),
    5: ErrorRule("wait", "already initialised"),
    6: ErrorRule("wait", "nothing found"),
    7: ErrorRule("wait", "more data than asked for"),
    8: ErrorRule("find", "its power cables are not attached", "shut down, and attach its power cables"),
    9: ErrorRule("init", "the driver is not loaded", "sudo modprobe nvidia"),
    10: ErrorRule("wait", "the driver did not answer in time"),
    11: ErrorRule("wait", "the kernel has found a problem with its interrupts", "sudo dmesg | grep -i nvrm"),
    12: ErrorRule("init", "the driver's library is not found"),
    13: ErrorRule("drop", "the driver does not know this query"),
    14: ErrorRule("wait", "its infoROM is corrupted", _RESET),
    15: ErrorRule("find", "GPU is lost, fallen off the bus", "sudo dmesg | grep -i xid, then reboot"),
    16: ErrorRule("find", "it must be reset", _RESET),
    17: ErrorRule("wait", "the operating system refused the driver's request", "sudo dmesg | grep -i nvrm"),
    18: ErrorRule("init", "the driver was updated while the old one is loaded", f"{_RELOAD} sudo modprobe nvidia"),
    19: ErrorRule("wait", "in use"),
    20: ErrorRule("wait", "the driver has no memory left"),
    21: ErrorRule("wait", "no data"),
    22: ErrorRule("drop", "not supported by this virtual GPU"),
    23: ErrorRule("wait", "the driver has no resources left"),
    24: ErrorRule("drop", "not supported"),
    25: ErrorRule("drop", "the driver is of another version than the query"),
    26: ErrorRule("drop", "the driver no longer supports this query"),
    27: ErrorRule("wait", "not ready yet"),
    28: ErrorRule("find", "GPU not found"),
    29: ErrorRule("wait", "in a state that does not allow it"),
    30: ErrorRule("drop", "not supported"),
    999: ErrorRule("wait", "unknown error", "sudo dmesg | grep -i nvrm"),
}
_UNHEARD_OF: Final = ErrorRule("wait", "an error that this version does not know")

UNINITIALIZED: Final = 1
NOT_SUPPORTED: Final = 3
NO_PERMISSION: Final = 4
_LIBRARY_NOT_FOUND: Final = 12
_UNKNOWN: Final = 999
_SAY_THE_DRIVER: Final = frozenset({9, 12, 18})  # their reasons name what has failed
# Codes for which a query that fails once need not be tried again. That of a field which the driver is too old for is
# INVALID_ARGUMENT.
LASTING: Final = frozenset(code for code, rule in _RULES.items() if rule.action == "drop") | {2}


@dataclass(frozen=True, slots=True)
class Absence:
    """Why there is no GPU to measure.

    Attributes:
        remedy: as ErrorRule.remedy.
        is_fault: false: there is simply none.
    """

    reason: str
    remedy: str = ""
    is_fault: bool = True


def rule_of(code: int) -> ErrorRule:
    """What is done about a return code, and said of it."""
    return _RULES.get(code, _UNHEARD_OF)


def reason_of(code: int) -> str:
    """A return code for people, with its number for search engines."""
    return f"{rule_of(code).reason} (NVML {code})"


def absence_of(code: int, dev: Path = Path("/dev")) -> Absence:
    """Why NVML could not be initialised.

    Args:
        dev: where the driver's device files are.
    """
    rule = rule_of(code)
    if code == _LIBRARY_NOT_FOUND:
        if not any((dev / name).exists() for name in ("nvidiactl", "dxg")):  # dxg: that of WSL 2
            return Absence("no NVIDIA driver here (libnvidia-ml.so.1 not found)", is_fault=False)
        return Absence(
            "the NVIDIA driver is here, its library libnvidia-ml.so.1 is not found",
            "in a container: start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility; else install the driver's"
            " libraries, of the version in /proc/driver/nvidia/version",
        )
    if code == NO_PERMISSION:
        return Absence("no permission to use the NVIDIA driver", rule.remedy)
    if code == _UNKNOWN:
        # NVIDIA/nvidia-container-toolkit issue 48: so it is in a container after `systemctl daemon-reload`.
        return Absence(
            "the NVIDIA driver does not answer (unknown error, NVML 999)",
            "in a container: start a new one; else reboot",
        )
    if code in _SAY_THE_DRIVER:
        return Absence(rule.reason.replace("the driver", "the NVIDIA driver", 1), rule.remedy)
    return Absence(f"NVML cannot be initialised: {reason_of(code)}", rule.remedy)
