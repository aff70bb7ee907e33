"""The MIG devices that a board is cut into, as NVML lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tracker.sensors.processes import Ask
from tracker.sensors.visible import Slice

_ENABLED: Final = 1


@dataclass(frozen=True, slots=True)
class Partition:
    """How a board in MIG mode is cut.

    Attributes:
        compute_slices: into how many compute slices it can be.
        slices: its MIG devices that can be seen from here.
        handles: of these, in the same order.
    """

    compute_slices: int
    slices: tuple[Slice, ...] = ()
    handles: tuple[Any, ...] = ()


def partition_of(ask: Ask, board: Any) -> Partition | None:
    """How a board is cut; None where it is not in MIG mode.

    Args:
        ask: queries NVML.
        board: its handle.

    Source: nvml.h, "Multi Instance GPU Management". A board can hold one device per compute slice, so that its largest
    number of devices is the number of slices (7 on A100 and H100, 4 on A30).
    """
    mode = ask("nvmlDeviceGetMigMode", board)
    compute_slices = ask("nvmlDeviceGetMaxMigDeviceCount", board)
    if not mode or mode[0] != _ENABLED or not compute_slices:
        return None
    handles = [ask("nvmlDeviceGetMigDeviceHandleByIndex", board, index) for index in range(compute_slices)]
    handles = [handle for handle in handles if handle is not None]  # instances that were destroyed leave gaps
    return Partition(compute_slices, tuple(_slice(ask, handle) for handle in handles), tuple(handles))


def _slice(ask: Ask, handle: Any) -> Slice:
    attributes = ask("nvmlDeviceGetAttributes_v2", handle)
    return Slice(
        uuid=ask("nvmlDeviceGetUUID", handle) or "",
        gpu_instance=ask("nvmlDeviceGetGpuInstanceId", handle),
        compute_instance=ask("nvmlDeviceGetComputeInstanceId", handle),
        profile=(ask("nvmlDeviceGetName", handle) or "").partition(" MIG ")[2],
        compute_slices=getattr(attributes, "computeInstanceSliceCount", None),
    )


def label(slices: Sequence[Slice], compute_slices: int | None) -> tuple[dict[str, str], str]:
    """What a device says that stands for some slices of its board.

    Returns:
        Attributes, and a note for people.

    Source: power is metered for the whole board alone, and no published rule tells how much of it a slice draws
    (knowledge, measurement 1.8).
    """
    counts = [one.compute_slices for one in slices]
    share = f"{sum(filter(None, counts))} of {compute_slices}" if None not in counts and compute_slices else ""
    profiles = ", ".join(filter(None, (one.profile for one in slices)))
    attributes = {
        "mig_uuid": ", ".join(one.uuid for one in slices),
        "mig_profile": profiles,
        "mig_compute_slices": share,
    }
    name = f"MIG {profiles}" if profiles else "a MIG device"
    of_board = f", {share} compute slices" if share else ""
    return attributes, f"energy of the whole board; the run has {name} of it{of_board}"
