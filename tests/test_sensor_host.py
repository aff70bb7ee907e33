"""The model of CPU and RAM: its laws, what it takes from control groups, and where it says nothing."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tracker.sensors.host
from tracker.energy import Stream, rules_of
from tracker.records import Device, DeviceKind, NotMeasured, Samples
from tracker.sensors.host import (
    Cpu,
    CpuModel,
    HostModel,
    cpu_model,
    ram_power_w,
    range_factors,
    without_measured,
)
from tracker.sensors.protocol import Inventory

S = 1_000_000
GB = 2**30
RATINGS = Path(tracker.sensors.host.__file__).with_name("data") / "cpu_ratings.csv"
XEON_6248 = "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz"


@dataclass(frozen=True)
class Times:
    user: float
    system: float
    idle: float
    steal: float = 0.0
    guest: float = 0.0


@dataclass(frozen=True)
class Memory:
    total: int


class Machine:
    """Stands in for psutil, procfs and control groups: CPUs whose load is what the test says."""

    def __init__(self, root: Path, cpus: int = 40, memory_bytes: int = 64 * GB, model: str = "") -> None:
        self.proc = root / "proc"
        self.cgroup = root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.cgroup.mkdir()
        self.hides_times = False
        self.t_us = 0
        self._cpus = cpus
        self._memory_bytes = memory_bytes
        self._busy_s = 0.0
        if model:
            self.describe(f"model name\t: {model}")

    def describe(self, *facts: str) -> None:
        (self.proc / "cpuinfo").write_text("\n".join(["processor\t: 0", *facts]) + "\n\nprocessor\t: 1\n")

    def write(self, file: str, text: str) -> None:
        path = self.cgroup / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def belong_to(self, *lines: str) -> None:
        (self.proc / "self" / "cgroup").write_text("\n".join(lines) + "\n")

    def run_until(self, t_us: int, load: float) -> None:
        self._busy_s += (t_us - self.t_us) / S * self._cpus * load
        self.t_us = t_us

    def clock_us(self) -> int:
        return self.t_us

    def sensor(self) -> HostModel:
        return HostModel(
            self.proc,
            self.cgroup,
            clock_us=self.clock_us,
            awake_clock_us=self.clock_us,
            import_psutil=lambda: self,
        )

    def cpu_count(self) -> int:
        return self._cpus

    def cpu_times(self) -> Times:
        if self.hides_times:
            raise PermissionError("/proc/stat")
        total_s = self.t_us / S * self._cpus
        return Times(user=self._busy_s, system=0.0, idle=total_s - self._busy_s, guest=self._busy_s)

    def virtual_memory(self) -> Memory:
        return Memory(self._memory_bytes)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path, model=XEON_6248)
    machine.run_until(1_000 * S, load=0.5)
    return machine


def cpu_of(inventory: Inventory) -> Device:
    return next(device for device in inventory.devices if device.kind == "cpu")


def energy_j(sensor: HostModel, device: Device) -> float:
    (reading,) = sensor.read([device])
    assert reading.counter_uj is not None
    return reading.counter_uj / S


# The laws


MODELS = [cpu_model(Cpu(name)) for name in ("", "Intel Xeon Gold 6248", "Intel Xeon Platinum 8280")]
models = st.sampled_from(MODELS)
loads = st.floats(0, 1)
counts = st.floats(0.1, 512)


@given(models, counts, st.floats(-1, 2))
def test_power_lies_between_idle_and_rating(model: CpuModel, cpus: float, load: float) -> None:
    power_w = model.power_w(cpus, load)

    assert 0 < model.power_w(cpus, 0) <= power_w <= model.rating_w * cpus * (1 + 1e-12)


@given(models, counts, loads, loads)
def test_more_load_is_never_less_power(model: CpuModel, cpus: float, one: float, other: float) -> None:
    assert model.power_w(cpus, min(one, other)) <= model.power_w(cpus, max(one, other))


@given(models, counts, counts, loads)
def test_cpus_add_up(model: CpuModel, some: float, others: float, load: float) -> None:
    together_w = model.power_w(some + others, load)

    assert together_w == pytest.approx(model.power_w(some, load) + model.power_w(others, load))


@given(models, st.floats(0.1, 256), st.floats(0, 256), loads, loads)
def test_a_limit_never_raises_the_power(
    model: CpuModel, ours: float, others: float, our_load: float, load_of_others: float
) -> None:
    machine_load = (ours * our_load + others * load_of_others) / (ours + others)

    assert model.power_w(ours, our_load) <= model.power_w(ours + others, machine_load) * (1 + 1e-9)


@given(st.integers(1, 8192 * GB), st.integers(1, 8192 * GB))
def test_more_ram_draws_more_but_never_more_for_each_gigabyte(one_bytes: int, other_bytes: int) -> None:
    small, large = sorted((one_bytes, other_bytes))

    assert 0 < ram_power_w(small) <= ram_power_w(large)
    assert ram_power_w(large) / large <= ram_power_w(small) / small * (1 + 1e-9)


def test_the_published_profile_is_near_what_was_measured_of_the_same_chips() -> None:
    """Teads Engineering, "Estimating AWS EC2 instances power consumption", 2021: shares of the rating."""
    measured = {0.0: 0.12, 0.1: 0.32, 0.5: 0.75, 1.0: 1.02}  # from memory, as the Impact Framework's Teads curve has it

    for load, share in measured.items():
        assert MODELS[2].share(load) == pytest.approx(share, abs=0.06)


def test_the_range_of_an_unknown_cpu_holds_that_of_every_known_one() -> None:
    unknown_low, unknown_high = MODELS[0].range_factors
    with RATINGS.open(newline="") as file:
        known = [cpu_model(Cpu(row["model"])) for row in csv.DictReader(file)]

    for model in known:
        low, high = model.range_factors
        assert unknown_low * MODELS[0].rating_w <= low * model.rating_w
        assert high * model.rating_w <= unknown_high * MODELS[0].rating_w


# The CPU


def test_energy_is_that_of_the_load_between_two_readings(machine: Machine) -> None:
    sensor = machine.sensor()
    cpu = cpu_of(sensor.open())
    assert cpu.name == "Intel Xeon Gold 6248, 40 CPUs"  # one socket of 20 cores, rated 150 W

    machine.run_until(1_010 * S, load=1.0)
    full_j = energy_j(sensor, cpu)
    machine.run_until(1_030 * S, load=0.0)
    idle_j = energy_j(sensor, cpu) - full_j

    assert full_j == pytest.approx(150 * 10)
    assert idle_j == pytest.approx(150 * 0.14 * 20)


@given(st.lists(st.tuples(st.integers(1, 3 * S), loads), min_size=1, max_size=30))
def test_no_reading_takes_energy_back_and_all_of_it_is_believed(steps: list[tuple[int, float]]) -> None:
    """Readings closer than the system's ticks do not tell the load; the next one makes up for it."""
    with TemporaryDirectory() as folder:
        machine = Machine(Path(folder), model=XEON_6248)
        machine.run_until(1_000 * S, load=0.0)
        sensor = machine.sensor()
        cpu = cpu_of(sensor.open())
        readings = sensor.read([cpu])
        for step_us, load in steps:
            machine.run_until(machine.t_us + step_us, load)
            readings += sensor.read([cpu])

    t_us = np.array([reading.t_us for reading in readings])
    counter_uj = np.array([reading.counter_uj for reading in readings])
    unknown = np.zeros_like(t_us)
    samples = Samples(cpu, t_us, unknown, unknown > 0, counter_uj, unknown == 0, unknown, unknown > 0)
    stream = Stream(rules_of(cpu, gap_us=None))
    edges_us = np.array([t_us[0], t_us[-1]])
    energy = [stream.push(samples, edges_us), stream.finish(edges_us)]

    elapsed_s = (t_us[-1] - t_us[0]) / S
    assert np.all(np.diff(counter_uj) > 0)
    assert sum(int(part.covered_us.sum()) for part in energy) == t_us[-1] - t_us[0]
    assert 0.14 * 150 * elapsed_s * (1 - 1e-6) - 1e-6 <= (counter_uj[-1] - counter_uj[0]) / S
    assert (counter_uj[-1] - counter_uj[0]) / S <= 150 * elapsed_s * (1 + 1e-6) + 1e-6


def test_suspended_time_costs_nothing(machine: Machine) -> None:
    asleep_us = 0
    sensor = HostModel(
        machine.proc,
        machine.cgroup,
        clock_us=lambda: machine.t_us + asleep_us,
        awake_clock_us=machine.clock_us,
        import_psutil=lambda: machine,
    )
    cpu, ram = sensor.open().devices

    machine.run_until(1_010 * S, load=0.0)
    asleep_us = 3_600 * S

    readings = sensor.read([cpu, ram])
    assert [reading.t_us for reading in readings] == [4_610 * S] * 2
    assert [reading.counter_uj for reading in readings] == [210 * S, 200 * S]


def test_a_failed_reading_is_unknown_and_the_next_one_makes_it_good(machine: Machine) -> None:
    sensor = machine.sensor()
    cpu = cpu_of(sensor.open())

    machine.run_until(1_010 * S, load=1.0)
    machine.hides_times = True
    assert sensor.read([cpu])[0].counter_uj is None
    machine.hides_times = False
    machine.run_until(1_020 * S, load=1.0)

    assert energy_j(sensor, cpu) == pytest.approx(150 * 20)


@pytest.mark.parametrize(
    ("facts", "cpus", "rating_w"),
    [
        ([f"model name : {XEON_6248}", "siblings : 40", "cpu cores : 20"], 80, 300),  # two sockets
        ([f"model name : {XEON_6248}", "siblings : 20", "cpu cores : 20"], 40, 300),  # two, multithreading off
        ([f"model name : {XEON_6248}", "siblings : 1", "cpu cores : 1", "flags : fpu hypervisor"], 8, 30),
        (["model name : Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz"], 28, 120),
        (["model name : AMD EPYC 7742 64-Core Processor"], 128, 225),
        (["model name : INTEL(R) XEON(R) PLATINUM 8568Y+"], 96, 350),
        (["model name : Intel(R) Xeon(R) CPU @ 2.20GHz", "flags : hypervisor"], 2, 8),  # unknown: 4 W each
        (["CPU part : 0xd4f"], 144, 576),  # ARM has no name
        (None, 8, 32),  # no /proc/cpuinfo
    ],
)
def test_the_rating_is_that_of_our_cpus(tmp_path: Path, facts: list[str] | None, cpus: int, rating_w: float) -> None:
    machine = Machine(tmp_path, cpus=cpus)
    machine.run_until(S, load=0.0)
    if facts is not None:
        machine.describe(*facts)

    cpu = cpu_of(machine.sensor().open())

    assert float(cpu.attributes["rating_w"]) == rating_w
    assert cpu.attributes["rating_source"] and cpu.attributes["formula_source"] and cpu.attributes["range_source"]
    factors = range_factors(cpu.attributes)
    assert factors is not None and 0 < factors[0] < 1 < factors[1]
    assert "model" in cpu.notes[0] and "rating" in cpu.notes[0]


# Control groups


def limit_by_quota_2(machine: Machine) -> str:
    machine.write("cgroup.controllers", "cpu memory")
    machine.belong_to("0::/pod/container")
    machine.write("pod/cpu.max", "400000 100000")
    machine.write("pod/container/cpu.max", "max 100000")
    return "pod/cpu.stat"


def limit_by_set_2(machine: Machine) -> str:
    machine.write("cgroup.controllers", "cpuset cpu memory")
    machine.belong_to("0::/")
    machine.write("cpu.max", "max 100000")
    machine.write("cpuset.cpus.effective", "0-2,8")
    return "cpu.stat"


def limit_by_quota_1(machine: Machine) -> str:
    machine.belong_to("4:memory:/docker/abc", "3:cpu,cpuacct:/docker/abc", "0::/system.slice")
    machine.write("cpu/cpu.cfs_quota_us", "400000")  # the container sees its own group as the root
    machine.write("cpu/cpu.cfs_period_us", "100000")
    return "cpuacct/cpuacct.usage"


def limit_by_set_1(machine: Machine) -> str:
    machine.belong_to("3:cpuset:/slurm/job_7", "2:cpu,cpuacct:/slurm/job_7")
    machine.write("cpuset/cpuset.cpus", "0-39")
    machine.write("cpuset/slurm/job_7/cpuset.cpus", "4-7")
    machine.write("cpu/slurm/job_7/cpu.cfs_quota_us", "-1")
    machine.write("cpu/slurm/job_7/cpu.cfs_period_us", "100000")
    return "cpuacct/slurm/job_7/cpuacct.usage"


@pytest.mark.parametrize("limit", [limit_by_quota_2, limit_by_set_2, limit_by_quota_1, limit_by_set_1])
def test_within_a_limit_our_own_use_of_our_own_cpus_counts(machine: Machine, limit: Callable[[Machine], str]) -> None:
    usage = limit(machine)

    def use(cpu_s: int) -> None:
        is_version_2 = usage.endswith("cpu.stat")
        machine.write(usage, f"usage_usec {cpu_s * S}\nuser_usec 1" if is_version_2 else f"{cpu_s * S * 1_000}")

    use(1_000)
    sensor = machine.sensor()
    cpu = cpu_of(sensor.open())
    use(1_020)
    machine.run_until(1_010 * S, load=1.0)  # the others': none of ours

    assert cpu.name == "Intel Xeon Gold 6248, 4 of 40 CPUs"
    assert energy_j(sensor, cpu) == pytest.approx(15 * (0.14 + 0.86 * 0.5) * 10)


def test_use_that_is_counted_anew_restarts_the_counter(machine: Machine) -> None:
    machine.write(limit_by_quota_2(machine), f"usage_usec {1_000 * S}")
    sensor = machine.sensor()
    cpu = cpu_of(sensor.open())
    machine.run_until(1_010 * S, load=0.0)
    assert energy_j(sensor, cpu) > 0

    machine.write("pod/cpu.stat", "usage_usec 0")
    machine.run_until(1_020 * S, load=0.0)

    assert energy_j(sensor, cpu) == 0


def test_a_limit_whose_use_is_hidden_leaves_the_cpu_unmeasured(machine: Machine) -> None:
    limit_by_quota_2(machine)

    inventory = machine.sensor().open()

    assert [device.kind for device in inventory.devices] == ["ram"]
    assert "4 of 40 CPUs are ours" in inventory.not_measured[0].reason


@pytest.mark.parametrize("text", ["", "0-", "x", "max 100000", "0 100000", "9000000 100000"])
def test_what_is_no_limit_leaves_the_whole_machine(machine: Machine, text: str) -> None:
    machine.write("cgroup.controllers", "cpu")
    machine.belong_to("0::/../../elsewhere")
    machine.write("cpu.max", text)
    machine.write("cpuset.cpus.effective", text)

    assert cpu_of(machine.sensor().open()).attributes["cpus"] == "40"


# RAM


def test_ram_is_charged_by_our_share_of_it(machine: Machine) -> None:
    machine.write("cgroup.controllers", "memory")
    machine.belong_to("0::/pod/container")
    machine.write("pod/memory.max", str(16 * GB))
    machine.write("pod/container/memory.max", "max")
    sensor = machine.sensor()
    (ram,) = (device for device in sensor.open().devices if device.kind == "ram")

    machine.run_until(1_100 * S, load=0.0)

    assert ram.name == "16 of 64 GB"
    assert energy_j(sensor, ram) == pytest.approx(20 / 4 * 100)  # 64 GB: 4 DIMMs of 5 W


def test_a_version_1_limit_beyond_the_machine_is_none(machine: Machine) -> None:
    machine.belong_to("4:memory:/")
    machine.write("memory/memory.limit_in_bytes", "9223372036854771712")

    assert [device.name for device in machine.sensor().open().devices if device.kind == "ram"] == ["64 GB"]


# Where it says nothing


def test_without_psutil_nothing_is_modelled_and_the_remedy_is_named(machine: Machine) -> None:
    def import_psutil() -> Machine:
        raise ImportError("psutil")

    sensor = HostModel(machine.proc, machine.cgroup, import_psutil=import_psutil)
    inventory = sensor.open()

    assert inventory.devices == ()
    assert [(part.kind, part.remedy) for part in inventory.not_measured] == [
        ("cpu", "pip install psutil"),
        ("ram", "pip install psutil"),
    ]


def test_where_proc_cannot_be_used_the_reason_is_given(machine: Machine) -> None:
    machine.hides_times = True

    inventory = machine.sensor().open()

    assert [device.kind for device in inventory.devices] == ["ram"]
    assert "/proc/stat" in inventory.not_measured[0].reason


def test_a_system_that_counts_no_cpu_time_is_not_taken_for_an_idle_one(tmp_path: Path) -> None:
    inventory = Machine(tmp_path).sensor().open()

    assert [device.kind for device in inventory.devices] == ["ram"]
    assert "does not count CPU time" in inventory.not_measured[0].reason


# Beside meters


def inventory_of(*kinds: DeviceKind, denied: tuple[DeviceKind, ...] = ()) -> Inventory:
    return Inventory(
        devices=tuple(
            Device(kind=kind, key=f"{kind}:{i}", name=kind, sensor="?", has_counter=True, has_power=False)
            for i, kind in enumerate(kinds)
        ),
        not_measured=tuple(NotMeasured(kind, kind, "denied") for kind in denied),
    )


@pytest.mark.parametrize(
    ("meters", "kept"),
    [
        (inventory_of("gpu"), ["cpu", "ram"]),
        (inventory_of(denied=("cpu_package", "dram")), ["cpu", "ram"]),
        (inventory_of("cpu_package"), ["ram"]),
        (inventory_of("cpu_package", "dram"), []),
        (inventory_of("cpu_package", "dram", denied=("cpu_package", "dram")), []),  # one socket of two
    ],
)
def test_the_model_keeps_out_of_what_a_meter_measures(meters: Inventory, kept: list[str]) -> None:
    model = inventory_of("cpu", "ram")
    silent = inventory_of(denied=("cpu", "ram"))

    assert [device.kind for device in without_measured(model, [inventory_of(), meters]).devices] == kept
    assert [part.kind for part in without_measured(silent, [meters]).not_measured] == kept


def test_measured_devices_have_no_factors() -> None:
    assert range_factors(inventory_of("cpu_package").devices[0].attributes) is None
