"""What doctor prints, whole."""

from dataclasses import replace

import pytest

from tracker.records import Device, IntensityValue, NotMeasured, ZoneChoice
from tracker.views.diagnosis import diagnosis_text
from tracker.views.findings import DatabaseFound, Diagnosis, GridFound, Part, SensorFound, SettingFound, SystemFound
from tracker.views.tables import columns_of


def gpu(index, name="NVIDIA H100 80GB HBM3", *, has_counter=True, **changes):
    device = Device(
        *("gpu", f"GPU-{index}", name, "nvml"),
        has_counter=has_counter,
        has_power=True,
        counter_period_us=100_000 if has_counter else None,
        power_window_us=25_000,
        attributes={"index": str(index)},
    )
    method, period_s, step_j = ("counter", 1.0, 0.001) if has_counter else ("power", 0.1, None)
    return Part(replace(device, **changes), method, period_s, step_j, 0.001)


NOTE = "a model, not measured: the truth is expected at 0.3 to 1.8 times"
MODEL = Device("cpu", "cpu", "Intel Xeon E5-2680, 8 CPUs", "model", True, False, notes=(NOTE,))
DENIED = 'cannot read energy_uj below /sys/class/powercap (permission denied; see README, "Permissions")'
MEND = 'sudo chgrp "$(id -gn)" /sys/class/powercap/intel-rapl*:*/energy_uj && sudo chmod g+r /sys/class/…/energy_uj'
TOLD = Diagnosis(
    is_well=False,
    problems=("TRACKER_PUE must be 1 (IT energy only) to 10, not '0.4'; ignored",),
    warnings=("the database is on a network file system (nfs4)",),
    sensors=(
        SensorFound(
            "rapl",
            0.001,
            None,
            not_measured=(
                NotMeasured("cpu_package", "CPU package-0", DENIED, MEND),
                NotMeasured("dram", "DRAM of package-0", DENIED, MEND),
            ),
        ),
        SensorFound("model", 0.002, 0.0009, (Part(MODEL, "model", 1.0, None, None),)),
        SensorFound(
            "nvml",
            1.25,
            0.00312,
            (
                *(gpu(index) for index in (0, 1, 2, 5)),
                gpu(3, "NVIDIA GH200 480GB", counter_period_us=0, notes=("covers the whole module",)),
                gpu(4, "Tesla P100", has_counter=False, power_window_us=None),
            ),
            not_measured=(NotMeasured("gpu", "GPU 6", "GPU is lost"),),
            warnings=("GPU 6: GPU is lost", "CUDA_VISIBLE_DEVICES: GPU 9 is not there"),
            trouble="reading GPU 5 took longer than 5.00 s: given up",
        ),
    ),
    zone=ZoneChoice("FR", "France", "guessed", "time zone Europe/Paris"),
    intensity=IntensityValue(
        *("FR", 40.3, "bundled", "ember-yearly-2026-10", "static"),
        basis="lifecycle",
        accounting="production",
        year=2024,
        source="Ember",
    ),
    grid=GridFound(
        "electricitymaps", "Electricity Maps", "FR", "by contract", True, "forecast", False, 90.0, "answered 429"
    ),
    settings=(
        SettingFound("db", "TRACKER_DB", "~/runs.db", "../pyproject.toml: db"),
        SettingFound("project", "TRACKER_PROJECT", "(set)", "TRACKER_PROJECT"),
        SettingFound("zone", "TRACKER_ZONE", None, "default"),
    ),
    database=DatabaseFound("~/runs.db", True, 1, 2, 1_200_000, 5_000_000_000, "nfs4", 3, ""),
    lock_folder="/run/user/1000/gpu-energy-tracker",
    system=SystemFound(
        *("Linux 6.8.0 x86_64", ("Kubernetes", "container"), "Intel Xeon E5-2680"),
        logical_cpus=56,
        limit_cpus=8.0,
        memory_bytes=256_000_000_000,
        limit_memory_bytes=64_000_000_000,
        pid_namespace="own",
        clock="CLOCK_BOOTTIME",
    ),
    versions={"tracker": "0.1.0", "python": "3.12.1", "nvidia_driver": "570.00", "nvml": ""},
)

TEXT_80 = f"""\
measured here
  GPU 0-2, 5  NVIDIA H100 80GB HBM3  counter  moves each 100 ms, step 1.00 mJ;
                                              power beside it: mean over 25.0
                                              ms, step 1.00 mW; read each 1.00 s
  GPU 3       NVIDIA GH200 480GB     counter  moves at each read, step 1.00 mJ;
                                              power beside it: mean over 25.0
                                              ms, step 1.00 mW; read each 1.00
                                              s; covers the whole module
  GPU 4       Tesla P100             power    mean over an unknown time, step
                                              1.00 mW; read each 100 ms

modelled here (estimates, kept apart from what is measured)
  CPU  Intel Xeon E5-2680, 8 CPUs  model  a model, not measured: the truth is
                                          expected at 0.3 to 1.8 times

not measured
  CPU package-0, DRAM of package-0: cannot read energy_uj below
  /sys/class/powercap (permission denied; see README, "Permissions")
    mend: {MEND}
  GPU 6: GPU is lost
  sensor nvml: reading GPU 5 took longer than 5.00 s: given up

one reading   model 0.900 ms (opened in 2.00 ms), nvml 3.12 ms (opened in 1.25
              s)
zone          France (FR), GUESSED from time zone Europe/Paris
intensity     40.3 g/kWh, bundled ember-yearly-2026-10, 2024, basis lifecycle,
              production, average, static
grid          Electricity Maps, zone FR; untested on the live service: forecast;
              left alone for 1.50 min: answered 429; licence by contract
source        Ember
database      ~/runs.db: schema 1: the next run migrates it to 2, 1.20 MB, on
              nfs4, 5.00 GB free; run files to be folded in: 3 (tracker db
              merge)
locks         /run/user/1000/gpu-energy-tracker
system        Linux 6.8.0 x86_64, Kubernetes, container, Intel Xeon E5-2680, 8
              of 56 CPUs by control group, memory 64.0 GB of 256 GB by control
              group, process numbers of its own
clock         CLOCK_BOOTTIME
versions      tracker 0.1.0, python 3.12.1, nvidia driver 570.00

settings
  db       ~/runs.db  ../pyproject.toml: db
  project  (set)      TRACKER_PROJECT
  zone     -          default

problem       TRACKER_PUE must be 1 (IT energy only) to 10, not '0.4'; ignored
warning       the database is on a network file system (nfs4)
warning       CUDA_VISIBLE_DEVICES: GPU 9 is not there
problems: 1"""


def test_the_whole_text_at_80_columns():
    assert diagnosis_text(TOLD, width=80) == TEXT_80


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_but_a_command_to_copy_is_wider_than_the_terminal(width):
    for line in diagnosis_text(TOLD, width=width).splitlines():
        assert columns_of(line) <= width or line.lstrip().startswith("mend:")


def test_no_part_of_a_reason_or_a_warning_is_cut_off_where_it_is_narrow():
    words = diagnosis_text(TOLD, width=40).split()

    for text in (DENIED, NOTE, *TOLD.problems, *TOLD.warnings):
        assert [word for word in text.split() if word not in words] == []


def test_what_is_replayed_says_so():
    nameless = replace(gpu(0).device, attributes={})
    parts = tuple(replace(gpu(0), device=replace(nameless, key=f"trace-{index}")) for index in range(8))
    replayed = replace(TOLD, sensors=(SensorFound("replay", 0.0, 0.0, parts),))

    head, first, *_ = diagnosis_text(replayed).splitlines()

    assert head == "measured here (replayed: a recorded trace stands in for the hardware)"
    assert first.startswith("  GPU  8 x NVIDIA H100 80GB HBM3  counter  ")


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"exists": False, "schema_version": None, "size_bytes": None}, "not made yet"),
        ({"schema_version": None, "size_bytes": 0}, "empty"),
        ({"schema_version": None, "trouble": "is not a database"}, "schema unknown, 1.20 MB, CANNOT BE USED"),
        ({"schema_version": 2}, "schema 2, 1.20 MB"),
    ],
)
def test_the_state_of_the_database_is_told_in_words(changes, shown):
    database = replace(TOLD.database, network_file_system="", free_bytes=None, run_files=0, **changes)

    lines = diagnosis_text(replace(TOLD, database=database)).splitlines()

    assert f"database      ~/runs.db: {shown}" in lines


def test_an_intensity_of_the_users_own_has_neither_dataset_nor_year():
    value = IntensityValue("", 400.0, "user", "constant", "static", source="TRACKER_INTENSITY")

    text = diagnosis_text(replace(TOLD, intensity=value, zone=None))

    assert "intensity     400 g/kWh, your own value (TRACKER_INTENSITY), basis unknown\n" in text
    assert "zone          none, beside an intensity of your own\n" in text


def test_names_of_others_cannot_break_the_lines():
    hostile = replace(TOLD, sensors=(SensorFound("nvml", 0.1, 0.1, (gpu(0, "a\nb\x1b[31m"),)),))

    assert "a\\nb\\x1b[31m" in diagnosis_text(hostile, width=200)
