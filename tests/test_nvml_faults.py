"""What GPUs and their driver do in the field, played by the stand-in: no figure leaves what the readings allow."""

import threading
from array import array
from dataclasses import replace
from typing import Any

import pynvml
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standin.nvml import GPU_IS_LOST, NOT_SUPPORTED, UNKNOWN, Const, Delay, Fault, Gpu, Lie, StandinNvml

from tracker.energy import integrate, rules_of
from tracker.records import Device, Reading
from tracker.sensors.nvml import NvmlSensor
from tracker.sensors.nvml_errors import rule_of
from tracker.sensors.protocol import GivenUpError, Inventory
from tracker.session.account import gap_us_of
from tracker.session.ranks import NodeGpus
from tracker.store.codec import append_reading, hot_bytes, hot_rows, samples_of_hot

S = 1_000_000
START_US = 2_000 * S
FIELD_CALL = "nvmlDeviceGetFieldValues"
UNINITIALIZED, RESET_REQUIRED, TIMEOUT, NOT_FOUND = 1, 16, 10, 28


class Run:
    """A sensor read each second on the stand-in's clock."""

    def __init__(self, standin: StandinNvml, *gpus: Gpu) -> None:
        self.standin = standin
        standin.plug(*gpus)
        standin.set_time_us(START_US)
        self.sensor = NvmlSensor(clock_us=standin.clock_us, pause_s=standin.pause_s)
        self.inventory: Inventory = self.sensor.open()
        self.readings: dict[str, list[Reading]] = {device.key: [] for device in self.inventory.devices}
        self.news: list[str] = []

    def go_on(self, from_s: int, to_s: int, after_each: Any = None) -> None:
        for second in range(from_s, to_s + 1):
            self.standin.set_time_us(START_US + second * S)
            devices = self.inventory.devices
            for device, reading in zip(devices, self.sensor.read(devices), strict=True):
                self.readings[device.key].append(reading)
            self.news += self.sensor.news()
            if after_each:
                after_each(second)

    def energy(self, device: Device, to_s: int) -> tuple[float, float, Any]:
        """Joules and seconds covered from the start to then, and what was found in the trace."""
        rows = array("q")
        for reading in self.readings[device.key]:
            if reading.power_mw is not None or reading.counter_uj is not None:
                append_reading(rows, 0, reading)
        samples = samples_of_hot(device, hot_rows(hot_bytes(rows)))
        energy = integrate(samples, [START_US, START_US + to_s * S], rules_of(device, gap_us_of(None)))
        return int(energy.twice_energy_nj[0]) / 2e9, int(energy.covered_us[0]) / S, energy.findings


def lost(from_s: int, until_s: int = 10**6, code: int = GPU_IS_LOST) -> Fault:
    return Fault("*", code, START_US + from_s * S, START_US + until_s * S)


@pytest.mark.parametrize("code", [GPU_IS_LOST, RESET_REQUIRED, NOT_FOUND])
def test_a_lost_gpu_has_its_energy_up_to_its_last_reading_and_the_other_all(standin_nvml, code):
    run = Run(standin_nvml, Gpu((Const(100_000),)), Gpu((Const(200_000),), faults=(lost(11, code=code),)))
    run.go_on(0, 60)
    living, gone = run.inventory.devices
    assert run.energy(living, 60)[:2] == (6000.0, 60.0)
    assert run.energy(gone, 60)[:2] == (2000.0, 10.0)
    assert len(run.news) == 1 and run.news[0].startswith("GPU 1 (Stand-in GPU): no answer")


def test_a_gpu_that_comes_back_is_found_by_its_uuid_and_its_counter_carries_the_energy(standin_nvml):
    run = Run(standin_nvml, Gpu((Const(200_000),), faults=(lost(10, 20),)))
    run.go_on(0, 60)
    (device,) = run.inventory.devices
    assert run.energy(device, 60)[:2] == (12_000.0, 60.0)
    assert len(run.news) == 2 and run.news[1] == "GPU 0 (Stand-in GPU): answers again"


def test_a_lost_gpu_is_not_asked_at_every_tick(standin_nvml):
    run = Run(standin_nvml, Gpu(faults=(lost(5),)))
    before = standin_nvml.calls(FIELD_CALL)
    run.go_on(0, 600)
    assert standin_nvml.calls(FIELD_CALL) - before < 5 + 25  # after 1, 2, 4 … s, then each minute


def test_nvml_shut_down_by_others_in_the_process_is_taken_up_again(standin_nvml):
    run = Run(standin_nvml, Gpu((Const(100_000),)), Gpu((Const(200_000),)))
    run.go_on(0, 60, lambda second: standin_nvml.shut_down() if second in (10, 11, 30) else None)
    for device, watts in zip(run.inventory.devices, (100, 200), strict=True):
        assert run.energy(device, 60)[:2] == (60.0 * watts, 60.0)
    assert run.news == []


def test_an_error_that_passes_is_a_gap_of_power_and_none_of_energy(standin_nvml):
    glitch = Fault("*", TIMEOUT, START_US + 10 * S, START_US + 12 * S)
    run = Run(standin_nvml, Gpu(faults=(glitch,)))
    run.go_on(0, 30)
    (device,) = run.inventory.devices
    missing = [n for n, reading in enumerate(run.readings[device.key]) if reading.counter_uj is None]
    assert missing == [10, 11] and run.news == []
    assert run.energy(device, 30)[:2] == (9000.0, 30.0)


def test_an_error_at_the_last_reading_costs_nothing_where_a_second_try_succeeds(standin_nvml):
    run = Run(standin_nvml, Gpu((Const(100_000),)))
    run.go_on(0, 9)
    standin_nvml.fail_once(FIELD_CALL, TIMEOUT)
    run.go_on(10, 10)
    assert run.energy(run.inventory.devices[0], 10)[:2] == (1000.0, 10.0) and run.news == []


def test_a_gpu_that_comes_and_goes_all_day_is_told_a_few_times(standin_nvml):
    run = Run(standin_nvml, Gpu(faults=tuple(lost(20 * n, 20 * n + 9) for n in range(1, 40))))
    run.go_on(0, 900)
    assert 2 <= len(run.news) <= 4


@pytest.mark.parametrize("code", [NOT_SUPPORTED, UNKNOWN])
def test_a_counter_that_ends_leaves_the_power(standin_nvml, code):
    run = Run(standin_nvml, Gpu(faults=(Fault("field:83", code, START_US + 10 * S),)))
    run.go_on(0, 30)
    (device,) = run.inventory.devices
    energy_j, covered_s, _ = run.energy(device, 30)
    assert (energy_j, covered_s) == (9000.0, 30.0)


@pytest.mark.parametrize("code", [NOT_SUPPORTED, UNKNOWN, TIMEOUT])
def test_a_counter_that_ends_is_told_once_with_what_is_done_about_it(standin_nvml, code):
    run = Run(standin_nvml, Gpu(faults=(Fault("field:83", code, START_US + 10 * S),)), Gpu())
    run.go_on(0, 300)
    (news,) = run.news
    assert news.startswith("GPU 0 ") and "energy counter" in news and "power is used" in news and f"NVML {code}" in news


EVERY_CODE = sorted(code for name, code in vars(pynvml).items() if name.startswith("NVML_ERROR_"))


@pytest.mark.parametrize("code", EVERY_CODE)
def test_every_error_of_one_gpu_is_named_and_ends_and_costs_the_other_nothing(standin_nvml, code):
    run = Run(standin_nvml, Gpu((Const(100_000),)), Gpu((Const(200_000),), faults=(lost(10, 130, code=code),)))
    calls = standin_nvml.calls(FIELD_CALL)
    run.go_on(0, 300)
    living, faulty = run.inventory.devices
    assert run.energy(living, 300)[:2] == (30_000.0, 300.0)
    assert run.energy(faulty, 300)[:2] == (60_000.0, 300.0)  # its counter went on
    assert f"(NVML {code})" in run.news[0] and run.news[1:] == ["GPU 1 (Stand-in GPU): answers again"]
    assert rule_of(code).reason in run.news[0] and rule_of(code) != rule_of(12345)
    assert standin_nvml.calls(FIELD_CALL) - calls < 2 * 301 - 80  # while it fails it is asked now and then only


def test_an_error_that_nobody_has_heard_of_is_one_that_may_pass(standin_nvml):
    run = Run(standin_nvml, Gpu(faults=(lost(10, 20, code=12345),)))
    run.go_on(0, 60)
    assert run.energy(run.inventory.devices[0], 60)[:2] == (18_000.0, 60.0)
    assert "NVML 12345" in run.news[0]


def test_one_cause_that_takes_all_gpus_is_one_line(standin_nvml):
    run = Run(standin_nvml, *(Gpu(faults=(lost(10, 20),)) for _ in range(8)))
    run.go_on(0, 60)
    first, *others = run.news
    assert first.startswith("GPUs 0, 1, 2, 3, 4, 5, 6, 7: no answer")
    assert len(others) == 1


def test_gpus_that_come_and_go_one_by_one_fill_a_few_lines_of_the_record(standin_nvml):
    gpus = [Gpu(faults=tuple(lost(10 + n + 40 * k, 12 + n + 40 * k) for k in range(8))) for n in range(8)]
    run = Run(standin_nvml, *gpus)
    run.go_on(0, 400)
    assert len(run.news) == 12 and "than is told here" in run.news[-1]


def test_a_driver_loaded_anew_is_begun_with_anew(standin_nvml):
    # To a process that has the old one's library open all GPUs answer with errors from then on.
    run = Run(standin_nvml, *(Gpu((Const(100_000),), faults=(lost(10, code=UNKNOWN),)) for _ in range(2)))
    run.go_on(0, 14)
    standin_nvml.plug(*(Gpu((Const(100_000),), lies=(Lie("counter", "restarts", 0, START_US + 14 * S),)) for _ in "ab"))
    run.go_on(15, 60)
    for device in run.inventory.devices:
        energy_j, covered_s, findings = run.energy(device, 60)
        assert 40 <= covered_s < 60 and energy_j == 100 * covered_s and findings.resets == 1
    assert [line.partition(":")[0] for line in run.news] == ["GPUs 0, 1"] * 2


def test_a_driver_that_cannot_be_begun_with_anew_says_why_and_is_taken_up_once_it_can(standin_nvml):
    run = Run(standin_nvml, *(Gpu() for _ in range(8)))
    run.go_on(0, 9)
    standin_nvml.shut_down()
    standin_nvml.plug(*(Gpu() for _ in range(8)), faults=(Fault("nvmlInit", 18, 0, START_US + 100 * S),))
    run.go_on(10, 99)
    (news,) = run.news
    assert news.startswith("GPUs 0, 1, 2, 3, 4, 5, 6, 7:") and "driver was updated" in news
    run.go_on(100, 300)
    assert all(run.readings[device.key][-1].counter_uj is not None for device in run.inventory.devices)


def test_nvml_shut_down_by_the_program_just_before_the_end_costs_nothing(standin_nvml):
    run = Run(standin_nvml, Gpu((Const(100_000),)))
    run.go_on(0, 10, lambda second: standin_nvml.shut_down() if second == 9 else None)
    assert run.energy(run.inventory.devices[0], 10)[:2] == (1000.0, 10.0)


def test_nvml_shut_down_by_others_between_two_runs_is_no_matter(standin_nvml):
    run = Run(standin_nvml, Gpu())
    standin_nvml.shut_down()
    assert run.sensor.open().devices == run.inventory.devices


def test_others_keep_the_nvml_that_they_have_initialised(standin_nvml):
    gpu = Gpu(faults=(lost(10, 20, code=UNKNOWN),))
    standin_nvml.plug(gpu)
    pynvml.nvmlInit()
    run = Run(standin_nvml, gpu)
    run.go_on(0, 60)
    run.sensor.close()
    assert pynvml.nvmlDeviceGetCount() == 1
    pynvml.nvmlShutdown()
    assert standin_nvml.functions.nvmlShutdown() == UNINITIALIZED


@pytest.mark.parametrize("uuid", [b"GPU-\xff\xfe", "GPU-same", ""])
def test_boards_whose_uuid_tells_them_not_apart_are_found_again_by_their_place(standin_nvml, uuid):
    gone = Gpu((Const(200_000),), uuid=uuid, faults=(lost(10, 20),))
    run = Run(standin_nvml, Gpu((Const(100_000),), uuid=uuid), gone)
    run.go_on(0, 60)
    assert len(run.readings) == 2
    for device, watts in zip(run.inventory.devices, (100, 200), strict=True):
        assert run.energy(device, 60)[:2] == (60.0 * watts, 60.0)
    assert [news.partition(" (")[0] for news in run.news] == ["GPU 1"] * 2


def test_power_and_energy_that_are_refused_are_told_with_what_to_do(standin_nvml):
    refused = tuple(
        Fault(name, 4) for name in (FIELD_CALL, "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption")
    )
    run = Run(standin_nvml, Gpu(faults=refused), Gpu())
    (missing,) = run.inventory.not_measured
    assert "no permission" in missing.reason and "/dev/nvidia" in missing.remedy
    assert len(run.inventory.devices) == 1 and "no permission" in run.inventory.warnings[0]


NO_COUNTER = (Fault("field:83", NOT_SUPPORTED), Fault("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED))


@pytest.mark.parametrize("faults", [NO_COUNTER, ()])
def test_a_power_of_zero_is_no_power(standin_nvml, faults):
    stuck = (Lie("power", "reads", 0), Lie("counter", "reads", 77))
    run = Run(standin_nvml, Gpu(lies=stuck, faults=faults))
    run.go_on(0, 60)
    (device,) = run.inventory.devices
    assert run.energy(device, 60)[:2] == (0.0, 0.0)
    (news,) = run.news
    assert "0 W" in news


def test_a_call_that_hangs_leaves_out_its_gpu_until_it_returns(standin_nvml):
    hanging = Gpu((Const(200_000),), delays=(Delay(FIELD_CALL, from_us=START_US + 10 * S, until_us=START_US + 20 * S),))
    run = Run(standin_nvml, Gpu((Const(100_000),)), hanging, Gpu((Const(300_000),)))
    run.go_on(0, 9)
    standin_nvml.set_time_us(START_US + 10 * S)
    devices = run.inventory.devices
    overtaken: list[Exception | None] = []
    thread = threading.Thread(target=lambda: overtaken.append(the_exception_of(lambda: run.sensor.read(devices))))
    calls = standin_nvml.calls(FIELD_CALL)
    thread.start()
    while standin_nvml.calls(FIELD_CALL) < calls + 2:
        assert thread.is_alive()
    left_out = run.sensor.leave_out()
    assert run.sensor.leave_out() is None  # one at most
    run.go_on(11, 30)
    assert thread.is_alive()
    standin_nvml.let_go()
    thread.join(5)
    run.go_on(31, 60)

    assert left_out == "GPU 1 (Stand-in GPU)" and [type(exc) for exc in overtaken] == [GivenUpError]
    for device, watts in zip(devices, (100, 200, 300), strict=True):
        assert run.energy(device, 60)[:2] == (60.0 * watts, 60.0)
    assert {r.counter_uj for r in run.readings[devices[1].key][10:29]} == {None}
    assert run.news == ["GPU 1 (Stand-in GPU): answers again"]


FAULTS = st.builds(
    lambda name, code, from_s, length_s: Fault(name, code, START_US + from_s * S, START_US + (from_s + length_s) * S),
    st.sampled_from(["*", FIELD_CALL, "field:83", "field:186", "field:185", "nvmlDeviceGetHandleByUUID"]),
    st.sampled_from([1, 2, 3, 4, 6, 8, 10, 14, 15, 16, 17, 19, 20, 21, 27, 28, 999]),
    st.integers(1, 40),
    st.integers(1, 30),
)


def test_the_gpus_of_several_processes_are_told_of_and_left_out_one_by_one(standin_nvml):
    standin_nvml.set_time_us(START_US)
    hung = Delay(FIELD_CALL, from_us=START_US + 10 * S)
    standin_nvml.plug(Gpu(faults=(lost(5, 8),)), Gpu(delays=(hung,)))
    node = NodeGpus([NvmlSensor(gpus=(index,), clock_us=standin_nvml.clock_us) for index in (0, 1)])
    devices = node.open().devices
    news: list[str] = []
    for second in range(10):
        standin_nvml.set_time_us(START_US + second * S)
        node.read(devices)
        news += node.news()
    assert [line.partition(" (")[0] for line in news] == ["GPU 0"] * 2
    assert node.leave_out() is None  # no call is at a device

    standin_nvml.set_time_us(START_US + 10 * S)
    calls = standin_nvml.calls(FIELD_CALL)
    overtaken: list[Exception | None] = []
    thread = threading.Thread(target=lambda: overtaken.append(the_exception_of(lambda: node.read(devices))))
    thread.start()
    while standin_nvml.calls(FIELD_CALL) < calls + 2:
        assert thread.is_alive()
    assert node.leave_out() == "GPU 1 (Stand-in GPU)"
    first, second = node.read(devices)
    standin_nvml.let_go()
    thread.join(5)

    assert first.counter_uj is not None and second.counter_uj is None
    assert [type(exc) for exc in overtaken] == [GivenUpError]
    assert all(reading.counter_uj is not None for reading in node.read(devices))


def the_exception_of(call: Any) -> Exception | None:
    try:
        call()
    except GivenUpError as exc:
        return exc
    return None


def between(from_s: int, length_s: int) -> tuple[int, int]:
    return START_US + from_s * S, START_US + (from_s + length_s) * S


WHEN = st.builds(between, st.integers(1, 40), st.integers(1, 30))
RESTARTS = st.builds(lambda from_s: Lie("counter", "restarts", 0, START_US + from_s * S), st.integers(1, 49))
HOLDS = st.builds(lambda when: Lie("counter", "holds", 0, *when), WHEN)
ABSURD_COUNTER = st.builds(
    lambda value, when: Lie("counter", "reads", value, *when), st.sampled_from([10**12, 2**53 - 1, 2**63 - 1]), WHEN
)
ABSURD_POWER = st.builds(
    lambda value, when: Lie("power", "reads", value, *when),
    st.sampled_from([0, 1_400_001, 3_700_000, 2**31 - 1, 2**32 - 1]),
    WHEN,
)
ANY_POWER = st.builds(lambda value, when: Lie("power", "reads", value, *when), st.integers(0, 2**32 - 1), WHEN)


LISTS_OF_FAULTS = st.lists(FAULTS, max_size=2).map(tuple)


def lying(*lies: st.SearchStrategy[Lie], faults: st.SearchStrategy[tuple[Fault, ...]]) -> st.SearchStrategy[Gpu]:
    # Of two restarts with no reading between them nobody can know.
    kinds = st.lists(st.one_of(*lies), max_size=4, unique_by=lambda lie: lie.how if lie.how == "restarts" else lie)
    return st.builds(lambda told, failing: Gpu(lies=tuple(told), faults=failing), kinds, faults)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=60
)
@given(
    watts=st.integers(20, 700),
    liars=st.lists(
        st.one_of(
            lying(RESTARTS, ABSURD_COUNTER, faults=LISTS_OF_FAULTS),  # power stands in
            lying(ABSURD_POWER, faults=LISTS_OF_FAULTS.map(lambda faults: (*faults, *NO_COUNTER))),  # is left out
            lying(ANY_POWER, faults=st.just(())),  # the counter needs none
        ),
        min_size=2,
        max_size=5,
    ),
)
def test_readings_that_cannot_be_true_cost_their_own_gpu_time_and_no_energy(standin_nvml, watts, liars):
    standin_nvml.shut_down()
    power = (Const(watts * 1000),)
    run = Run(standin_nvml, Gpu(power), *(replace(gpu, power=power) for gpu in liars))
    run.go_on(0, 50)
    healthy, *others = run.inventory.devices
    assert run.energy(healthy, 50)[:2] == (50.0 * watts, 50.0)
    for device in others:
        energy_j, covered_s, _ = run.energy(device, 50)
        assert covered_s <= 50 and energy_j == pytest.approx(watts * covered_s)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=60
)
@given(
    watts=st.integers(20, 700),
    lies=st.lists(st.one_of(RESTARTS, HOLDS, ABSURD_COUNTER, ANY_POWER), max_size=4),
    nonsense=st.lists(
        st.builds(lambda value, when: Lie("counter", "reads", value, *when), st.integers(0, 10**9), WHEN), max_size=2
    ),
)
def test_no_readings_whatever_make_more_energy_than_the_board_can_draw(standin_nvml, watts, lies, nonsense):
    standin_nvml.shut_down()
    run = Run(standin_nvml, Gpu((Const(watts * 1000),), lies=(*lies, *nonsense)))
    run.go_on(0, 50)
    (device,) = run.inventory.devices
    energy_j, covered_s, _ = run.energy(device, 50)
    assert 0 <= energy_j <= 1.05 * device.max_power_mw / 1000 * (covered_s + device.counter_period_us / S)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=40
)
@given(
    watts=st.lists(st.integers(20, 700), min_size=2, max_size=4),
    faults=st.lists(st.lists(FAULTS, max_size=3), min_size=3, max_size=3),
    shut_down_at=st.sets(st.integers(1, 49), max_size=3),
)
def test_faults_in_any_combination_cost_their_own_gpu_time_and_nobody_energy_that_was_not_there(
    standin_nvml, watts, faults, shut_down_at
):
    standin_nvml.shut_down()
    healthy, *faulty = watts
    gpus = [Gpu((Const(healthy * 1000),))]
    gpus += [Gpu((Const(w * 1000),), faults=tuple(f)) for w, f in zip(faulty, faults, strict=False)]
    run = Run(standin_nvml, *gpus)
    run.go_on(0, 50, lambda second: standin_nvml.shut_down() if second in shut_down_at else None)
    for device, w in zip(run.inventory.devices, watts, strict=True):
        energy_j, covered_s, findings = run.energy(device, 50)
        assert energy_j == pytest.approx(w * covered_s)
        assert 0 <= covered_s <= 50
        assert not findings.resets and not findings.implausible
    assert run.energy(run.inventory.devices[0], 50)[:2] == (50.0 * healthy, 50.0)
    assert len(run.news) <= 4 * len(faulty)
