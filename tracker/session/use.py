"""Which of the GPUs charged to a run its processes were never seen on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from tracker.records import Device, DeviceEnergy
from tracker.views import amounts

# Of a run that was seen on no GPU at all: it may not have come to its work yet. As many looks take 8 to 16 s.
MIN_LOOKS_IF_NONE_SEEN: Final = 5


class GpuUse:
    """What the looks at the process lists have shown. One thread adds to it; others may read."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._untold: set[str] = set()
        self._unseen: dict[str, int] = {}  # how many looks did not see it

    def looked(self, devices: Sequence[Device], in_use: Sequence[bool | None]) -> None:
        """As Listener.looked."""
        for device, is_in_use in zip(devices, in_use, strict=True):
            if is_in_use:
                self._seen.add(device.key)
            elif is_in_use is None:
                self._untold.add(device.key)
            else:
                self._unseen[device.key] = self._unseen.get(device.key, 0) + 1

    def warning(self, devices: Sequence[DeviceEnergy]) -> str | None:
        """What the run says of charged GPUs that none of its processes was seen on; None where there are none.

        A GPU whose list could not be read at some time is not among them.
        """
        gpus = [device for device in devices if device.kind == "gpu"]
        enough = 1 if self._seen else MIN_LOOKS_IF_NONE_SEEN
        told = self._unseen.keys() - self._seen - self._untold
        unused = [d for d in gpus if d.key in told and self._unseen[d.key] >= enough and d.energy_j is not None]
        if not unused:
            return None
        energy = amounts.energy(math.fsum(device.energy_j or 0.0 for device in unused))
        names = ", ".join(device.attributes.get("index", device.key) for device in unused)
        rest = ",".join(_choice_of(device) for device in gpus if device not in unused) or "none"
        in_all, them = (" in all", "them") if len(unused) > 1 else ("", "it")
        return (
            f"no process of this run was seen on GPU {names}, charged to it with {energy}{in_all}; "
            f'gpus="{rest}" leaves {them} out'
        )


def _choice_of(device: DeviceEnergy) -> str:
    """The device as the setting gpus takes it."""
    return device.attributes.get("mig_uuid") or device.attributes.get("index") or device.key
