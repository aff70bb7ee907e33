"""The GPUs of a run's processes on one node: all that any of them sees."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Final

from tracker.records import Device, Reading
from tracker.sensors.cuda import shown_uuids
from tracker.sensors.nvml import NvmlSensor
from tracker.sensors.processes import ProcessTree
from tracker.sensors.protocol import Inventory
from tracker.settings import GpuChoice

_DECIDING: Final = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")  # which devices CUDA shows, and in which order


def view_of(gpus: GpuChoice, environ: Mapping[str, str] = os.environ, shown: Sequence[str] | None = None) -> str:
    """What decides which GPUs a process is charged for, as text that compares.

    Args:
        gpus, environ: its own.
        shown: the UUIDs that CUDA shows it; None: to be asked for when the GPUs are looked up, by itself alone.
    """
    deciding = {name: environ[name] for name in _DECIDING if name in environ}
    return json.dumps({"gpus": gpus, "environ": deciding, "shown": shown})


def is_without_gpus(view: str) -> bool:
    """Whether a process wants no GPU charged to it."""
    return bool(json.loads(view)["gpus"] == "none")


class NodeGpus:
    """One sensor made of those that each process would have; a device that several see is read once.

    Args:
        sensors: one for each view.
    """

    name = NvmlSensor.name

    def __init__(self, sensors: Sequence[NvmlSensor]) -> None:
        self._sensors = sensors
        self._owners: dict[str, NvmlSensor] = {}  # by the device's key

    def open(self) -> Inventory:
        self._owners = {}
        devices: list[Device] = []
        inventories = [sensor.open() for sensor in self._sensors]
        for sensor, inventory in zip(self._sensors, inventories, strict=True):
            for device in inventory.devices:
                if device.key not in self._owners:
                    self._owners[device.key] = sensor
                    devices.append(device)
        return Inventory(
            devices=tuple(devices),
            not_measured=tuple(dict.fromkeys(part for inventory in inventories for part in inventory.not_measured)),
            warnings=tuple(dict.fromkeys(warning for inventory in inventories for warning in inventory.warnings)),
        )

    def read(self, devices: Sequence[Device]) -> list[Reading]:
        read: dict[str, Reading] = {}
        for sensor, owned in self._by_owner(devices):
            read |= zip((device.key for device in owned), sensor.read(owned), strict=True)
        return [read[device.key] for device in devices]

    def look(self, devices: Sequence[Device]) -> list[bool | None]:
        seen: dict[str, bool | None] = {}
        for sensor, owned in self._by_owner(devices):
            seen |= zip((device.key for device in owned), sensor.look(owned), strict=True)
        return [seen[device.key] for device in devices]

    def news(self) -> list[str]:
        return [line for sensor in self._sensors for line in sensor.news()]

    def leave_out(self) -> str | None:
        return next(filter(None, (sensor.leave_out() for sensor in self._sensors)), None)

    def close(self) -> None:
        for sensor in self._sensors:
            sensor.close()

    def _by_owner(self, devices: Sequence[Device]) -> list[tuple[NvmlSensor, list[Device]]]:
        owned = [(sensor, [d for d in devices if self._owners[d.key] is sensor]) for sensor in self._sensors]
        return [(sensor, its_devices) for sensor, its_devices in owned if its_devices]


def node_gpus(views: Sequence[str], launcher_pid: int | None) -> NvmlSensor | NodeGpus:
    """The sensor for what these processes see, each as view_of tells.

    Args:
        launcher_pid: the process that all of them descend from; None: this one.
    """
    sensors = []
    for view in map(json.loads, views):
        tree = ProcessTree(os.getpid() if launcher_pid is None else launcher_pid)
        gpus = tuple(view["gpus"]) if isinstance(view["gpus"], list) else view["gpus"]
        shown = view["shown"]
        is_own = shown is None and len(views) == 1
        ask = shown_uuids if is_own else lambda shown=shown: shown
        sensors.append(NvmlSensor(gpus=gpus, environ=view["environ"], shown=ask, processes=tree))
    return sensors[0] if len(sensors) == 1 else NodeGpus(sensors)
