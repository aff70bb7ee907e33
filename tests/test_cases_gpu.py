"""Reports of GPUs measured wrong, each for its whole kind, from `track` to the stored run."""

import contextlib
import ctypes
import sqlite3
import time

import pytest
from standin.nvml import GPU_IS_LOST, NOT_SUPPORTED, Const, Fault, Gpu, Lie, Square

import tracker
from tracker.machine import boottime_us

NO_COUNTER = (Fault("field:83", NOT_SUPPORTED), Fault("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED))
NO_POWER = (
    Fault("field:185", NOT_SUPPORTED),
    Fault("field:186", NOT_SUPPORTED),
    Fault("nvmlDeviceGetPowerUsage", NOT_SUPPORTED),
)
NO_AVERAGE = Fault("field:185", NOT_SUPPORTED)
S = 1_000_000


@pytest.fixture
def tracked(standin_nvml, tmp_path, monkeypatch, caplog):
    """Runs a block on these GPUs, and gives the run as it comes back from the database, and all that was logged."""
    monkeypatch.delenv("STANDIN_CLOCK")
    (tmp_path / "sys").mkdir()
    monkeypatch.setenv("TRACKER_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("TRACKER_ZONE", "FR")
    monkeypatch.chdir(tmp_path)

    def tracked(*gpus, seconds=1.0, work=time.sleep, **arguments):
        standin_nvml.plug(*gpus, epoch_us=boottime_us())
        with tracker.track("case", **arguments) as live:
            work(seconds)
        return tracker.get(live.id), caplog.messages

    return tracked


def gpus_of(run):
    return [device for device in run.devices if device.kind == "gpu"]


@pytest.mark.parametrize("name", ["NVIDIA Test GPU", b"NVIDIA \xff\xfe GPU", "NVIDIA 測試 GPU"])
def test_names_are_plain_text_in_record_and_database(name, tracked, tmp_path):
    # Case 201: "b'NVIDIA …'" in databases.
    run, _ = tracked(Gpu((Const(100_000),), name=name), seconds=0.3)
    (gpu,) = gpus_of(run)
    assert gpu.name.startswith("NVIDIA ") and gpu.name.endswith(" GPU")
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        ((stored,),) = connection.execute("SELECT name FROM devices WHERE kind = 'gpu'").fetchall()
    assert stored == gpu.name


def test_a_board_without_a_counter_is_integrated_from_power_and_says_so(tracked):
    # Case 203: 0 kWh for whole trainings.
    run, messages = tracked(Gpu((Const(180_000),), faults=NO_COUNTER))
    (gpu,) = gpus_of(run)
    assert gpu.method == "power"
    assert gpu.energy_j == pytest.approx(180 * run.duration_s, rel=0.03)
    assert len([m for m in messages if "GPU" in m]) <= 1


def test_power_that_never_changes_is_taken_as_it_is_and_named(tracked):
    stuck, _ = tracked(Gpu((Const(180_000),), faults=NO_COUNTER), seconds=6.5)
    (gpu,) = gpus_of(stuck)
    assert any("may be stuck" in note for note in gpu.notes)
    assert gpu.energy_j == pytest.approx(180 * stuck.duration_s, rel=0.03)


def test_a_board_that_shows_no_power_at_all_has_no_energy_and_not_0(tracked):
    run, _ = tracked(Gpu(lies=(Lie("power", "reads", 0),), faults=NO_COUNTER), Gpu((Const(100_000),)))
    dark, lit = gpus_of(run)
    assert (dark.energy_j, dark.method) == (None, "none")
    assert run.energy_j == lit.energy_j == pytest.approx(100 * run.duration_s, rel=0.03)
    assert any(part.key == dark.key for part in run.not_measured)
    assert any("0 W" in warning for warning in run.warnings)


def test_a_board_without_any_meter_is_unknown_and_the_total_says_that_it_lacks_it(tracked):
    # Case 204: stored as 0 J, or nothing measured at all.
    run, _ = tracked(Gpu(faults=(*NO_COUNTER, *NO_POWER), name="NVIDIA GeForce 940MX"), Gpu((Const(100_000),)))
    (gpu,) = gpus_of(run)
    assert gpu.energy_j == pytest.approx(100 * run.duration_s, rel=0.03)
    (missing,) = [part for part in run.not_measured if part.kind == "gpu"]
    assert missing.name == "GPU 0, NVIDIA GeForce 940MX" and missing.reason
    assert "940MX" in run.summary()


def test_a_board_that_falls_off_the_bus_keeps_what_it_used_and_costs_the_other_nothing(tracked):
    # Case 205: the sampler's thread dead, or 800 J where 300 were used.
    gone = Fault("*", GPU_IS_LOST, from_us=1_500_000)
    run, messages = tracked(Gpu((Const(100_000),)), Gpu((Const(200_000),), faults=(gone,)), seconds=3, interval_s=0.1)
    living, lost = gpus_of(run)
    assert living.energy_j == pytest.approx(100 * run.duration_s, rel=0.02)
    assert lost.energy_j == pytest.approx(200 * lost.coverage * run.duration_s, rel=0.02)
    assert 200 <= lost.energy_j <= 305
    assert len([m for m in messages if "no answer" in m]) == 1
    assert [w for w in run.warnings if "GPU 1" in w and "GPU is lost" in w]


@pytest.mark.parametrize("absurd_mw", [4_294_967_295, 3_700_000, 800_000])
def test_absurd_readings_are_left_out_of_energy_and_peak_and_said(absurd_mw, tracked):
    # Case 211: 860 kJ, a peak of 4.29 MW.
    gpu = Gpu((Square(150_000, absurd_mw, 1 * S),), limit_mw=175_000, faults=(*NO_COUNTER, NO_AVERAGE))
    run, _ = tracked(gpu, seconds=2.2)
    (device,) = gpus_of(run)
    assert device.energy_j == pytest.approx(150 * device.coverage * run.duration_s, rel=0.03)
    assert device.max_power_w == pytest.approx(150)
    assert any("impossible power" in note for note in device.notes)


def test_a_board_whose_every_reading_is_absurd_has_no_energy_and_a_reason(tracked):
    # Case 211 b: 593 W where the limit is 175 W.
    run, _ = tracked(Gpu((Const(593_000),), limit_mw=175_000, faults=(*NO_COUNTER, NO_AVERAGE)))
    (device,) = gpus_of(run)
    assert device.energy_j is None and device.method == "none" and run.energy_j is None
    (missing,) = [part for part in run.not_measured if part.kind == "gpu"]
    assert "impossible power" in missing.reason


@pytest.mark.parametrize("seconds", [2.5])
def test_counter_and_power_at_odds_are_not_mixed_and_the_range_holds_both(seconds, tracked, standin_nvml):
    # Case 213: 37 W by the counter, 65 W by power, on an idle card.
    run, _ = tracked(Gpu((Const(37_450),), power_offset_mw=27_870), seconds=seconds)
    (device,) = gpus_of(run)
    assert device.method == "counter"
    assert device.energy_j == pytest.approx(37.45 * run.duration_s, rel=0.03)
    assert device.mean_power_w == pytest.approx(device.energy_j / (device.coverage * run.duration_s))
    low_j, high_j = device.energy_range_j
    assert low_j <= device.energy_j and 65.32 * run.duration_s <= high_j * 1.02
    assert any("counter and power disagree" in note for note in device.notes)


@pytest.mark.parametrize("has_counter", [True, False])
def test_a_call_that_keeps_the_interpreters_lock_hides_no_energy(has_counter, tracked):
    # Case 417: 500 J of 1100, without a word about the hole.
    def starve(seconds):
        time.sleep(0.5)
        ctypes.PyDLL(None).usleep(round(seconds * 1e6))  # PyDLL keeps the lock
        time.sleep(0.5)

    gpu = Gpu((Square(100_000, 300_000, 3_600 * S),), faults=() if has_counter else (*NO_COUNTER, NO_AVERAGE))
    run, _ = tracked(gpu, seconds=2.4, work=starve, interval_s=0.1)
    (device,) = gpus_of(run)
    if has_counter:
        assert device.energy_j == pytest.approx(300 * run.duration_s, rel=0.02)
        return
    assert device.coverage < 0.4
    assert any("its energy is unknown" in note for note in device.notes)
    assert device.energy_j == pytest.approx(300 * device.coverage * run.duration_s, rel=0.05)
