"""tracker doctor: what it finds, that it changes nothing, that it ends, and that it gives nobody away."""

import json
import os
import socket
import sqlite3
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from standin.nvml import GPU_IS_LOST, NOT_SUPPORTED, Const, Delay, Fault, Gpu
from standin.powercap import unprivileged
from stored_runs import a_full_run, store_run

from tracker.cli import cli
from tracker.machine import boottime_us
from tracker.records import plain
from tracker.sensors.nvml import NvmlSensor
from tracker.session.diagnosis import READS, _read, _sqlite_problems, _sqlite_warnings, diagnose
from tracker.session.election import private_folder
from tracker.settings import VARIABLES
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
    monkeypatch.setenv("TZ", "UTC")
    powercap_tree.add("intel-rapl:0", "package-0", 100_000_000)
    powercap_tree.add("intel-rapl:0:0", "dram", 100_000_000)
    monkeypatch.setenv("TRACKER_SYSFS", str(powercap_tree.sysfs))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with powercap_tree.moving("intel-rapl:0", "intel-rapl:0:0"):
        yield work


@pytest.fixture
def gpus(standin_nvml, monkeypatch):
    """Puts GPUs in, in real time."""
    monkeypatch.delenv("STANDIN_CLOCK")
    yield lambda *boards, **more: standin_nvml.plug(*boards, epoch_us=boottime_us(), **more)
    standin_nvml.let_go()


def doctor(*arguments, code=0):
    result = CliRunner().invoke(cli, ["doctor", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def told(*arguments, code=0):
    return json.loads(doctor("--json", *arguments, code=code))


def state(path):
    """What a change would change; a file that was read has another access time."""
    found = path.lstat()
    return found.st_size, found.st_mtime_ns, found.st_mode


def sensor_of(found, name):
    return next(sensor for sensor in found["sensors"] if sensor["name"] == name)


def test_a_machine_without_a_gpu_says_so_and_what_it_measures():
    found = told()
    rapl, model, nvml = (sensor_of(found, name) for name in ("rapl", "model", "nvml"))

    assert [(part["device"]["kind"], part["method"]) for part in rapl["parts"]] == [
        ("cpu_package", "counter"),
        ("dram", "counter"),
    ]
    assert rapl["read_s"] > 0 and rapl["parts"][0]["counter_step_j"] == pytest.approx(61e-6, rel=0.01)
    assert model["parts"] == [] and nvml["parts"] == []
    assert nvml["not_measured"][0]["reason"] and nvml["read_s"] is None


def test_eight_healthy_gpus_are_one_line_with_period_window_and_step(gpus):
    gpus(*(Gpu((Const(100_000),), arch=9, counter_period_us=100_000) for _ in range(8)))

    nvml = sensor_of(told(), "nvml")

    assert [
        (part["method"], part["period_s"], part["counter_step_j"], part["power_step_w"]) for part in nvml["parts"]
    ] == [("counter", 1.0, 0.001, 0.001)] * 8
    assert {(part["device"]["counter_period_us"], part["device"]["power_window_us"]) for part in nvml["parts"]} == {
        (100_000, 25_000)
    }
    assert doctor().count("GPU 0-7") == 1


def test_four_gpus_with_four_faults_are_told_apart(gpus):
    gpus(
        Gpu(name="no counter", faults=NO_COUNTER),
        Gpu(name="no meter", faults=(*NO_COUNTER, *NO_POWER)),
        Gpu(name="lost", faults=(Fault("*", GPU_IS_LOST),)),
        Gpu(name="healthy"),
    )

    measured, _, missing = doctor().partition("not measured\n")

    lines = {line.split("  ")[1]: line for line in measured.splitlines() if line.startswith("  GPU")}
    assert "no counter" in lines["GPU 0"] and " power " in lines["GPU 0"]
    assert "healthy" in lines["GPU 3"] and " counter " in lines["GPU 3"]
    assert "no meter: neither power nor energy" in missing and "GPU is lost" in missing


def test_a_gpu_without_a_counter_is_read_ten_times_as_often_unless_told_otherwise(gpus, monkeypatch):
    gpus(Gpu(faults=NO_COUNTER))

    assert sensor_of(told(), "nvml")["parts"][0]["period_s"] == 0.1
    monkeypatch.setenv("TRACKER_INTERVAL", "2")
    assert sensor_of(told(), "nvml")["parts"][0]["period_s"] == 2.0


def test_a_denied_meter_comes_with_the_command_that_mends_it_and_the_model_beside_it(powercap_tree, monkeypatch):
    powercap_tree.deny("intel-rapl:0")
    powercap_tree.deny("intel-rapl:0:0")
    monkeypatch.chdir("/")  # the stranger that root becomes may not look into the test's folder
    diagnose()  # nor, where Python lies below /root, import anything
    with unprivileged():
        found = diagnose()
        text = diagnosis_text(found, width=60)

    assert "permission denied" in " ".join(text.split())
    (mend,) = [line.strip() for line in text.splitlines() if line.strip().startswith("mend:")]
    assert mend.startswith("mend: sudo") and mend.endswith("energy_uj")
    model = sensor_of(plain(found), "model")
    assert [part["method"] for part in model["parts"]] == ["model", "model"]
    assert text.index("measured here\n  nothing") < text.index("modelled here") < text.index("not measured")


def test_what_is_not_measured_is_no_failure(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKER_SYSFS", str(tmp_path / "nothing"))

    assert doctor(code=0).endswith("no problems\n")


def test_a_driver_that_never_answers_is_given_up_and_named(gpus):
    gpus(Gpu(), delays=(Delay("nvmlInit"),))

    found = diagnose(open_timeout_s=0.5)

    nvml = sensor_of(plain(found), "nvml")
    assert nvml["trouble"].startswith("finding devices took longer than 500 ms: given up") and nvml["parts"] == []
    assert "sensor nvml: finding devices took longer" in diagnosis_text(found)


def test_a_gpu_whose_reading_never_ends_is_given_up_and_named(standin_nvml):
    hanging = Gpu(name="B", delays=(Delay("nvmlDeviceGetFieldValues", from_us=5_000_000),))
    standin_nvml.plug(Gpu(name="A"), hanging, epoch_us=standin_nvml.clock_us())
    sensor = NvmlSensor(clock_us=standin_nvml.clock_us, pause_s=standin_nvml.pause_s)
    devices = sensor.open().devices
    took_s, none = _read(sensor, devices, 5.0)
    standin_nvml.set_time_us(standin_nvml.clock_us() + 6_000_000)

    assert (len(took_s), none) == (READS, "")
    took_s, trouble = _read(sensor, devices, 0.2)
    assert took_s == [] and trouble.startswith("reading GPU 1 (B) took longer than 200 ms: given up")
    standin_nvml.let_go()


def test_nothing_is_written_and_no_database_is_made(place, tmp_path):
    def everything():
        return sorted((str(path), *state(path)) for path in tmp_path.rglob("*"))

    before = everything()
    doctor()
    doctor("--db", str(tmp_path / "elsewhere" / "runs.db"))
    assert everything() == before

    store_run(place / "runs.db", a_full_run())
    before = everything()
    doctor("--db", "runs.db")
    assert everything() == before


def test_a_meter_that_stands_still_is_named_and_the_model_is_what_there_is(powercap_tree):
    powercap_tree.replace_energy("intel-rapl:0", 5)  # the fixture moves the file that was there

    found = told()

    rapl, model = (sensor_of(found, name) for name in ("rapl", "model"))
    assert [part["device"]["kind"] for part in rapl["parts"]] == ["dram"]
    assert [(part["kind"], "stands still" in part["reason"]) for part in rapl["not_measured"]] == [
        ("cpu_package", True)
    ]
    assert [part["device"]["kind"] for part in model["parts"]] == ["cpu"]


def test_on_a_superchip_no_part_is_told_twice(powercap_tree, gpus):
    for zone in ("intel-rapl:0", "intel-rapl:0:0"):
        powercap_tree.remove(zone)
    gpus(Gpu(name="NVIDIA GH200 480GB", c2c=1))

    model, nvml = (sensor_of(told(), name) for name in ("model", "nvml"))

    assert model["parts"] == [] and "whole module" in " ".join(nvml["parts"][0]["device"]["notes"])


def test_the_keys_of_the_json_are_stable():
    found = told()

    assert set(found) == {
        *("is_well", "problems", "warnings", "sensors", "zone", "intensity", "grid", "settings", "database"),
        *("lock_folder", "system", "versions"),
    }
    sensor = sensor_of(found, "rapl")
    assert set(sensor) == {"name", "open_s", "read_s", "parts", "not_measured", "warnings", "trouble"}
    assert set(sensor["parts"][0]) == {"device", "method", "period_s", "counter_step_j", "power_step_w"}
    assert [set(setting) for setting in found["settings"]] == [{"name", "variable", "value", "origin"}] * len(VARIABLES)
    assert set(found["database"]) == {
        *("place", "exists", "schema_version", "schema_version_written", "size_bytes", "free_bytes"),
        *("network_file_system", "run_files", "trouble"),
    }
    assert set(found["system"]) == {
        *("system", "places", "cpu", "logical_cpus", "limit_cpus", "memory_bytes", "limit_memory_bytes"),
        *("pid_namespace", "clock"),
    }
    assert set(found["versions"]) == {
        *("tracker", "python", "numpy", "sqlalchemy", "nvidia-ml-py", "psutil", "sqlite", "nvidia_driver", "nvml"),
    }


def test_zone_and_intensity_come_with_origin_basis_year_and_source(monkeypatch):
    monkeypatch.setenv("TRACKER_ZONE", "FR")

    found = told()

    assert (found["zone"]["zone"], found["zone"]["detail"]) == ("FR", "TRACKER_ZONE")
    assert all(found["intensity"][key] for key in ("basis", "year", "source", "provider", "dataset"))
    lines = doctor().splitlines()
    assert "zone          France (FR), set by TRACKER_ZONE" in lines


def test_who_is_asked_for_the_hours_intensity_comes_with_licence_and_what_is_untested(monkeypatch):
    assert told()["grid"] is None
    assert "grid          nobody is asked for the hour's intensity (TRACKER_PROVIDER)" in doctor().splitlines()
    monkeypatch.setenv("TRACKER_ZONE", "DE")
    monkeypatch.setenv("TRACKER_PROVIDER", "energycharts")
    monkeypatch.setenv("TRACKER_ENERGYCHARTS_TOKEN", "secret-not-real")

    found = told()

    grid = found["grid"]
    assert (grid["zone"], grid["is_tested"]) == ("DE", False) and "CC" in grid["licence"] and grid["untested"]
    assert "UNTESTED on the live service" in doctor() and "secret-not-real" not in doctor()
    monkeypatch.setenv("TRACKER_PROVIDER", "neso")
    assert any("does not serve zone 'DE'" in warning for warning in told()["warnings"]) and told()["grid"] is None


def test_it_names_neither_user_nor_machine_nor_project_nor_secrets(place, monkeypatch):
    monkeypatch.setenv("USER", "mallory.o'x")
    monkeypatch.setenv("LOGNAME", "mallory.o'x")
    monkeypatch.setenv("TRACKER_PROJECT", "secret-project")
    monkeypatch.setenv("TRACKER_RUN_ID", "secret run of mine")
    monkeypatch.setenv("TRACKER_WATTTIME_TOKEN", "secret-token")
    monkeypatch.setenv("TRACKER_ZONE", "secret-token")
    monkeypatch.setenv("TRACKER_REPLAY", "https://me:secret/pass@word@host.example/trace.csv?key=secret")
    home = os.environ["HOME"]
    project = Path(home) / "secret-project" / "nlp"
    project.mkdir(parents=True)
    (project.parent / "tracker.toml").write_text(f'pue = 1.2\nsysfs = "{home}/sys"\nparent_id = "secret parent"\n')
    monkeypatch.chdir(project)
    monkeypatch.delenv("TRACKER_SYSFS")

    for db in ("/scratch/mallory.o'x/secret-project/runs.db", "postgresql://me:secret@db.secret.example:1/x"):
        result = CliRunner().invoke(cli, ["doctor", "--db", db])
        as_json = CliRunner().invoke(cli, ["doctor", "--db", db, "--json"])
        text = result.output + as_json.output
        for private in ("secret", "mallory", "somebody", "pass", "word@", f"{socket.gethostname()}."):
            assert private not in text, private
        assert "~/sys" in text and "../tracker.toml: pue" in text

    settings = {setting["name"]: setting for setting in json.loads(as_json.output)["settings"]}
    assert settings["project"]["value"] == settings["watttime_token"]["value"] == "(set)"
    assert settings["db"]["value"] == "postgresql://…"


def test_a_wrong_setting_is_named_with_its_origin_and_is_a_problem(place, monkeypatch):
    monkeypatch.setenv("TRACKER_PUE", "0.3")
    (place / "tracker.toml").write_text("interval_s = -1\n")

    found = told(code=1)

    assert [problem.split(" must")[0] for problem in found["problems"]] == [
        "TRACKER_PUE",
        "./tracker.toml: interval_s",
    ]
    (pue,) = [setting for setting in found["settings"] if setting["name"] == "pue"]
    assert (pue["value"], pue["origin"]) == ("1.0", "default")


def test_each_setting_shows_the_source_that_holds(place, monkeypatch):
    monkeypatch.setenv("TRACKER_PUE", "1.3")
    (place / "pyproject.toml").write_text("[tool.tracker]\npue = 1.2\nzone = 'FR'\n")
    config = Path(os.environ["XDG_CONFIG_HOME"]) / "tracker"
    config.mkdir(parents=True)
    (config / "config.toml").write_text("zone = 'DE'\noffline = true\n")

    settings = {s["name"]: (s["value"], s["origin"]) for s in told("--db", "x.db")["settings"]}

    assert settings["db"] == ("./x.db", "argument")
    assert settings["pue"] == ("1.3", "TRACKER_PUE")
    assert settings["zone"] == ("FR", "./pyproject.toml: zone")
    assert settings["offline"] == ("1", "~/config/tracker/config.toml: offline")
    assert settings["gpus"] == ("visible", "default")


def test_a_variable_that_is_no_setting_is_named_with_what_it_may_have_meant(monkeypatch):
    monkeypatch.setenv("TRACKER_ZOEN", "FR")

    assert "no setting is called TRACKER_ZOEN; did you mean TRACKER_ZONE?" in told()["warnings"]


def test_what_is_disabled_says_so(monkeypatch):
    monkeypatch.setenv("TRACKER_DISABLED", "yes")

    assert "nothing is measured or recorded" in told()["warnings"][0]


def test_a_name_that_hides_the_package_is_a_problem(place):
    (place / "tracker.py").write_text("")

    assert "./tracker.py hides this package" in told(code=1)["problems"][0]


def test_a_database_that_cannot_be_used_is_a_problem_and_stays_as_it_is(place):
    (place / "junk.db").write_text("junk" * 1000)
    (place / "folder.db").mkdir()
    store_run(place / "newer.db", a_full_run())
    connection = sqlite3.connect(place / "newer.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    for name, said in (("junk", "is not a database"), ("folder", "is a folder"), ("newer", "newer tracker")):
        before = state(place / f"{name}.db")
        (problem,) = told("--db", f"{name}.db", code=1)["problems"]
        assert problem.startswith("database: ./") and said in problem
        assert state(place / f"{name}.db") == before


@pytest.mark.parametrize(
    ("version", "has_problem", "has_warning"),
    [((3, 25, 9), True, True), ((3, 26, 0), False, True), ((3, 51, 2), False, True), ((3, 51, 3), False, False)],
)
def test_an_sqlite_that_is_too_old_is_a_problem_and_one_with_the_wal_fault_a_warning(version, has_problem, has_warning):
    assert bool(list(_sqlite_problems(version))) == has_problem
    assert bool(list(_sqlite_warnings(version))) == has_warning


def test_the_folder_of_locks_is_told_and_not_made(tmp_path, monkeypatch):
    runtime = tmp_path / "run-of-user"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))

    assert told()["lock_folder"].endswith("run-of-user/gpu-energy-tracker")
    assert list(runtime.iterdir()) == []
    assert private_folder() == private_folder(is_made=False) == runtime / "gpu-energy-tracker"


def test_a_folder_of_locks_that_is_open_to_others_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    (tmp_path / f"gpu-energy-tracker-{os.getuid()}").symlink_to(tmp_path)

    found = told()

    assert found["lock_folder"] == "" and found["is_well"]
    assert any("cannot agree on one that samples" in warning for warning in found["warnings"])


def test_run_files_that_wait_are_counted(place):
    (place / "runs.db.d").mkdir()
    (place / "runs.db.d" / "x.db").touch()

    assert told("--db", "runs.db")["database"]["run_files"] == 1
    assert "run files to be folded in: 1" in " ".join(doctor("--db", "runs.db").split())


def test_a_database_server_that_never_answers_is_given_up():
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = diagnose(f"postgresql+psycopg://127.0.0.1:{server.getsockname()[1]}/x", database_timeout_s=0.5)

    assert found.problems == ("database: took longer than 500 ms: given up",)
    assert (found.database.place, found.database.exists) == ("postgresql+psycopg://…", None)
