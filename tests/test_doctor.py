"""tracker doctor: what it finds, that it changes nothing, and that it gives nobody away."""

import json
import os
import socket
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner
from standin.nvml import GPU_IS_LOST, NOT_SUPPORTED, Const, Fault, Gpu
from standin.powercap import unprivileged
from stored_runs import a_full_run, store_run

from tracker.cli import cli
from tracker.machine import boottime_us
from tracker.session.diagnosis import diagnose
from tracker.store.opening import inspect, network_of
from tracker.views.diagnosis import diagnosis_text

NO_COUNTER = (Fault("field:83", NOT_SUPPORTED), Fault("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED))
NO_POWER = tuple(Fault(name, NOT_SUPPORTED) for name in ("field:185", "field:186", "nvmlDeviceGetPowerUsage"))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, powercap_tree):
    """A machine without GPUs, with one readable package, and a home of its own."""
    for name in [name for name in os.environ if name.startswith("TRACKER_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home-of-somebody"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    powercap_tree.add("intel-rapl:0", "package-0", 1_000_000)
    powercap_tree.add("intel-rapl:0:0", "dram", 1_000_000)
    monkeypatch.setenv("TRACKER_SYSFS", str(powercap_tree.sysfs))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def doctor(*arguments, code=0):
    result = CliRunner().invoke(cli, ["doctor", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def told(code=0):
    return json.loads(doctor("--json", code=code))


def test_a_machine_without_a_gpu_says_so_and_what_it_measures(monkeypatch):
    found = {sensor["name"]: sensor for sensor in told()["sensors"]}
    assert [d["kind"] for d in found["rapl"]["devices"]] == ["cpu_package", "dram"]
    assert found["rapl"]["read_s"] > 0 and found["model"]["devices"] == []
    assert found["nvml"]["not_measured"][0]["reason"]


def test_eight_healthy_gpus_are_told_with_counter_and_window(standin_nvml, monkeypatch):
    monkeypatch.delenv("STANDIN_CLOCK")
    standin_nvml.plug(*(Gpu((Const(100_000),)) for _ in range(8)), epoch_us=boottime_us())
    nvml = next(sensor for sensor in told()["sensors"] if sensor["name"] == "nvml")
    assert len(nvml["devices"]) == 8 and all(d["has_counter"] and d["has_power"] for d in nvml["devices"])
    text = doctor()
    assert text.count("counter moves at each read") == 8 and "7 " in text


def test_four_gpus_with_four_faults_are_told_apart(standin_nvml, monkeypatch):
    monkeypatch.delenv("STANDIN_CLOCK")
    standin_nvml.plug(
        Gpu(name="no counter", faults=NO_COUNTER),
        Gpu(name="no meter", faults=(*NO_COUNTER, *NO_POWER)),
        Gpu(name="lost", faults=(Fault("*", GPU_IS_LOST),)),
        Gpu(name="healthy"),
        epoch_us=boottime_us(),
    )
    text = doctor()
    measured, _, missing = text.partition("not measured")
    assert "no counter" in measured and "healthy" in measured
    assert "no meter: neither power nor energy" in missing and "GPU is lost" in missing


def test_a_denied_meter_comes_with_the_command_that_mends_it_on_a_line_of_its_own(powercap_tree, monkeypatch):
    powercap_tree.deny("intel-rapl:0")
    powercap_tree.deny("intel-rapl:0:0")
    monkeypatch.chdir("/")  # the stranger that root becomes may not look into the test's folder
    with unprivileged():
        text = diagnosis_text(diagnose(), width=60)
    assert "permission denied" in text
    (mend,) = [line.strip() for line in text.splitlines() if line.strip().startswith("mend:")]
    assert mend.startswith("mend: sudo") and mend.endswith("energy_uj")


def test_nothing_is_written_and_no_database_is_made(place, tmp_path):
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    doctor()
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_it_names_neither_user_nor_machine_nor_secrets(place, monkeypatch):
    monkeypatch.setenv("TRACKER_PROJECT", "secret-project")
    monkeypatch.setenv("TRACKER_RUN_ID", "secret-run")
    monkeypatch.setenv("TRACKER_WATTTIME_TOKEN", "secret-token")
    home = os.environ["HOME"]
    (place / "tracker.toml").write_text(f'pue = 1.2\nsysfs = "{home}/sys"\n')
    monkeypatch.delenv("TRACKER_SYSFS")
    text = doctor() + doctor("--json")
    for private in ("secret", "home-of-somebody", f"{socket.gethostname()}."):
        assert private not in text
    assert "~/sys" in text and "1.2" in text
    remote = CliRunner().invoke(cli, ["doctor", "--db", "postgresql://me:secret@db.secret.example:1/x"]).output
    assert "secret" not in remote and "postgresql://" in remote


def test_a_wrong_setting_is_named_with_its_origin_and_is_a_problem(monkeypatch):
    monkeypatch.setenv("TRACKER_PUE", "0.3")
    found = told(code=1)
    assert any("TRACKER_PUE" in problem for problem in found["problems"]) and not found["is_well"]
    (pue,) = [setting for setting in found["settings"] if setting["name"] == "pue"]
    assert (pue["value"], pue["origin"]) == ("1.0", "default")


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_name_that_hides_the_package_is_a_problem(form, place):
    if form == "file":
        (place / "tracker.py").write_text("")
    else:
        (place / "tracker").mkdir()
        (place / "tracker" / "__init__.py").write_text("")
    assert "hides the package" in told(code=1)["problems"][0]


def test_a_database_that_cannot_be_used_is_a_problem_and_stays_as_it_is(place):
    (place / "junk.db").write_text("junk" * 1000)
    (place / "folder.db").mkdir()
    store_run(place / "newer.db", a_full_run())
    connection = sqlite3.connect(place / "newer.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for name, said in (("junk", "is not a database"), ("folder", "is a folder"), ("newer", "newer tracker")):
        before = state_of(place / f"{name}.db")
        assert said in doctor("--db", f"{name}.db", code=1)
        assert state_of(place / f"{name}.db") == before


def state_of(path):
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_mode, found.st_ino


def test_an_older_database_is_not_migrated(place, tmp_path):
    old = place / "old.db"
    old.write_bytes((Path(__file__).parent / "data" / "schema-0001.db").read_bytes())
    before = old.read_bytes()
    assert inspect(old).version == 1
    doctor("--db", "old.db")
    assert old.read_bytes() == before


def test_run_files_that_wait_are_told(place):
    (place / "runs.db.d").mkdir()
    (place / "runs.db.d" / "x.db").touch()
    assert "1 run files wait" in doctor("--db", "runs.db")


def test_a_network_file_system_is_known_by_the_longest_mount_above(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:2 / /home\\040dir rw shared:1 - nfs4 server:/x rw\n"
        "3 2 0:3 / /home\\040dir/local rw - tmpfs tmpfs rw\n"
    )
    assert network_of(Path("/home dir/a/runs.db"), mounts) == "nfs4"
    assert network_of(Path("/home dir/local/runs.db"), mounts) == ""
    assert network_of(Path("/elsewhere/runs.db"), mounts) == ""
    assert network_of(Path("/x"), tmp_path / "none") == ""


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_but_a_command_to_copy_is_wider_than_the_terminal(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    for line in doctor().splitlines():
        assert len(line) <= width or line.lstrip().startswith("mend:")
