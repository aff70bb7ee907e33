"""Lays out a powercap tree as the kernel does: zones nested in devices/virtual, and a flat folder of links to them."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INTEL_RANGE_UJ = 262_143_328_850  # 2^32 - 1 units of 61 µJ
AMD_RANGE_UJ = 65_532_610_987  # of 15.3 µJ
NOBODY = 65534


class PowercapTree:
    """A sysfs with nothing but powercap in it; sysfs is its mount point."""

    def __init__(self, root: Path) -> None:
        self.sysfs = root / "sys"
        self._devices = self.sysfs / "devices" / "virtual" / "powercap"
        self._class = self.sysfs / "class" / "powercap"
        self._devices.mkdir(parents=True)
        self._class.mkdir(parents=True)

    def add(self, zone: str, name: str, energy_uj: int = 0, max_range_uj: int | None = INTEL_RANGE_UJ) -> None:
        """A zone such as "intel-rapl:0:1", inside "intel-rapl:0"; without max_energy_range_uj where that is None."""
        folder = self.folder(zone)
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        self.set_energy(zone, energy_uj)
        if max_range_uj is not None:
            (folder / "max_energy_range_uj").write_text(f"{max_range_uj}\n")
        control_type = zone.partition(":")[0]
        for entry, target in ((control_type, self._devices / control_type), (zone, folder)):
            link = self._class / entry
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(target, self._class))

    def folder(self, zone: str) -> Path:
        control_type, *numbers = zone.split(":")
        folder = self._devices / control_type
        for depth in range(len(numbers)):
            folder /= ":".join([control_type, *numbers[: depth + 1]])
        return folder

    def set_energy(self, zone: str, energy_uj: int) -> None:
        """As the kernel does it: the file stays, its content is new."""
        (self.folder(zone) / "energy_uj").write_text(f"{energy_uj}\n")

    def replace_energy(self, zone: str, energy_uj: int) -> None:
        """As it looks through a copy of the tree: another file under the same name."""
        new = self.folder(zone) / "energy_uj.new"
        new.write_text(f"{energy_uj}\n")
        new.replace(self.folder(zone) / "energy_uj")

    def remove(self, zone: str, file: str = "energy_uj") -> None:
        (self.folder(zone) / file).unlink()

    def deny(self, zone: str) -> None:
        """For root only, as kernels since 5.10 have it."""
        for file in ("energy_uj", "max_energy_range_uj"):
            (self.folder(zone) / file).chmod(0o400 if os.geteuid() == 0 else 0)

    @contextmanager
    def moving(self, *zones: str, from_uj: int = 100_000_000) -> Iterator[None]:
        """Counters that go on as a real meter's do, each few ms."""
        is_over = threading.Event()
        files = [(self.folder(zone) / "energy_uj").open("r+b", buffering=0) for zone in zones]

        def turn() -> None:
            energy_uj = from_uj
            while not is_over.wait(0.004):
                energy_uj += 200_000
                for file in files:
                    os.pwrite(file.fileno(), b"%d" % energy_uj, 0)  # always as many digits

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            for file in files:
                file.close()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root reads files of any mode, so it steps down for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
