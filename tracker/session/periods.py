"""How often a sensor must be read for what it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tracker.records import Device
from tracker.units import MICROSECONDS_PER_S

NO_COUNTER_PERIOD_US: Final = MICROSECONDS_PER_S // 10


def period_for(devices: Sequence[Device], period_us: int, interval_s: float | None) -> int:
    """How often a sensor must be read for its devices, in µs: as asked for, or more often.

    Args:
        devices: all of the sensor.
        period_us: of the sensor, by default or by the user's interval.
        interval_s: the user's; None: not set.
    """
    if interval_s is None and any(d.kind == "gpu" and not d.has_counter for d in devices):
        period_us = min(period_us, NO_COUNTER_PERIOD_US)
    for device in devices:
        if device.counter_modulus_uj is not None and device.max_power_mw:
            # Half the time of a wrap at the highest power: longer cells cannot tell one wrap from two.
            wrap_us = device.counter_modulus_uj * 1000 // device.max_power_mw
            period_us = min(period_us, max(NO_COUNTER_PERIOD_US, wrap_us // 2))
    return period_us
