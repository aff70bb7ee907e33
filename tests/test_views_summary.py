"""The summary of a run: whole, at 80 columns, with everything that its figures do not say by themselves."""

from __future__ import annotations

import html
from dataclasses import replace
from datetime import UTC, datetime
from textwrap import dedent

import pytest

from tracker.comparison import Comparison
from tracker.records import (
    DeviceEnergy,
    IntensityUse,
    IntensityValue,
    NotMeasured,
    Run,
    ZoneChoice,
)
from tracker.views.comparison import comparison_text
from tracker.views.listing import runs_table
from tracker.views.summary import summary_html, summary_text
from tracker.views.tables import columns_of

STARTED = datetime(2026, 11, 25, 4, 17, 3, tzinfo=UTC)
FRANCE = IntensityValue(
    zone="FR",
    intensity_g_per_kwh=56.0,
    provider="bundled",
    dataset="Ember yearly electricity data",
    status="static",
    basis="lifecycle",
    accounting="production",
    year=2024,
    source="Ember yearly electricity data, Oct 2026 release",
)


def gpu(number: int = 0, energy_j: float | None = 540_000.0, coverage: float = 1.0, notes=()) -> DeviceEnergy:
    return DeviceEnergy(
        kind="gpu",
        key=f"GPU-{number:08x}-1111-2222-3333-444455556666",
        name="NVIDIA H100 80GB HBM3",
        method="counter",
        energy_j=energy_j,
        mean_power_w=None if energy_j is None else energy_j / 3600,
        max_power_w=None,
        coverage=coverage,
        notes=notes,
    )


CPU = DeviceEnergy("cpu_package", "intel-rapl:0", "CPU package-0", "counter", 180_000.0, 50.0, 60.0, 0.9987)
RAM = DeviceEnergy("ram", "ram", "512 GiB", "model", 43_000.0, 11.9, 11.9, 1.0)
MEASURED = Run(
    id="3f9c2a7e41b0",
    name="digits",
    project="demo",
    tags={},
    status="finished",
    started_at=STARTED,
    ended_at=None,
    duration_s=3600.0,
    energy_j=4_500_000.0,
    energy_modelled_j=None,
    emissions_g=70.0,
    emissions_modelled_g=None,
    pue=1.0,
    coverage=0.9998,
    devices=(*(gpu(i) for i in range(8)), CPU),
    intensity=(IntensityUse(FRANCE, "setting", 4_500_000.0, 0.0, 13),),
    zone=ZoneChoice("FR", "France", "setting", "TRACKER_ZONE"),
    energy_range_j=(4_200_000.0, 4_800_000.0),
)
NOTHING_MEASURED = Run(
    id="77aa01bb90cd",
    name=None,
    project=None,
    tags={},
    status="failed",
    started_at=STARTED,
    ended_at=None,
    duration_s=12.0,
    energy_j=None,
    energy_modelled_j=None,
    emissions_g=None,
    emissions_modelled_g=None,
    pue=1.0,
    coverage=None,
)
HOSTILE = [
    "a\nb",
    "\x1b[31mred",
    "<script>alert(1)</script>",
    "長い名前" * 50,
    "🔥" * 99,
    "x" * 5000,
    "\udc80",
    "\u202e",
]


def test_a_measured_run_shows_every_part_with_its_method_and_coverage():
    assert summary_text(MEASURED) == dedent("""\
        run           digits, project demo, id 3f9c2a7e41b0
        status        finished, started 2026-11-25 04:17:03 UTC, 1.00 h
        measured      1.25 kWh, coverage 99.9 %, range 1.17 kWh to 1.33 kWh (k = 2)
          GPU  8 x NVIDIA H100 80GB HBM3  counter   100 %  1.20 kWh  mean 1.20 kW
          CPU  package-0                  counter  99.8 %   50.0 Wh   mean 50.0 W
        emissions     70.0 g CO2e of the measured energy; PUE 1.0 (IT energy only)
        intensity     56.0 g/kWh, France (FR), set by TRACKER_ZONE
                      bundled: Ember yearly electricity data, 2024, lifecycle,
                      production, average, static""")


def test_where_only_the_gpus_errors_are_known_their_range_is_shown():
    run = replace(
        MEASURED, energy_range_j=None, devices=(*(replace(gpu(i), energy_range_j=(5e5, 6e5)) for i in range(8)), CPU)
    )

    line = " ".join(summary_text(run).split("  GPU")[0].split())

    assert line.endswith("coverage 99.9 %, GPU range 1.11 kWh to 1.33 kWh (k = 2)")


def test_what_is_estimated_replayed_missing_or_doubtful_stands_apart():
    run = replace(
        MEASURED,
        tags={"lr": "0.1"},
        parent_id="77aa01bb90cd",
        is_replayed=True,
        pue=1.2,
        energy_modelled_j=43_000.0,
        emissions_modelled_g=0.8,
        devices=(gpu(0, coverage=0.5, notes=("evenly spaced, no counter: aliasing can't be excluded",)), RAM),
        zone=ZoneChoice("FR", "France", "guessed", "time zone Europe/Paris"),
        intensity=(IntensityUse(FRANCE, "guessed", 4_500_000.0, 43_000.0, 13),),
        not_measured=(
            NotMeasured("cpu_package", "package-0", "cannot read energy_uj (root only)", "sudo chmod g+r energy_uj"),
            NotMeasured("cpu_package", "package-1", "cannot read energy_uj (root only)", "sudo chmod g+r energy_uj"),
            NotMeasured("dram", "package-0 dram", "the counter stands still", "sudo chmod g+r energy_uj"),
            NotMeasured("gpu", "GPU", "the driver is not loaded"),
        ),
        warnings=("zone FR (France) was guessed",),
    )

    assert summary_text(run) == dedent("""\
        run           digits, project demo, id 3f9c2a7e41b0
                      tags lr=0.1
                      part of run 77aa01bb90cd
        status        finished, started 2026-11-25 04:17:03 UTC, 1.00 h
        replayed      a recorded trace stood in for the hardware: not this machine's
                      energy
        measured      1.25 kWh, coverage 99.9 %, range 1.17 kWh to 1.33 kWh (k = 2)
          GPU  NVIDIA H100 80GB HBM3  counter  50.0 %   150 Wh   mean 150 W
        modelled      11.9 Wh, an estimate; not part of the measured energy
          RAM  512 GiB                model     100 %  11.9 Wh  mean 11.9 W
        emissions     70.0 g CO2e of the measured energy; PUE 1.2
                      800 mg CO2e of the modelled energy, an estimate; PUE 1.2
        intensity     56.0 g/kWh, France (FR), GUESSED from time zone Europe/Paris
                      bundled: Ember yearly electricity data, 2024, lifecycle,
                      production, average, static
        not measured  CPU package-0, CPU package-1: cannot read energy_uj (root only)
                      DRAM package-0 dram: the counter stands still; modelled instead
                      remedy: sudo chmod g+r energy_uj
                      GPU: the driver is not loaded
        notes         GPU: evenly spaced, no counter: aliasing can't be excluded
        warnings      zone FR (France) was guessed""")


def test_a_run_without_meters_shows_no_0():
    assert summary_text(NOTHING_MEASURED) == dedent("""\
        run           (no name), id 77aa01bb90cd
        status        failed, started 2026-11-25 04:17:03 UTC, 12.0 s
        measured      nothing
        emissions     unknown, as no energy is""")


def test_a_running_run_says_so_far():
    text = summary_text(replace(NOTHING_MEASURED, status="running"))

    assert "12.0 s so far" in text
    assert "nothing yet" in text


def test_a_disabled_run_says_that_nothing_was_measured_and_no_more():
    run = replace(NOTHING_MEASURED, status="disabled", started_at=None)

    assert summary_text(run).splitlines()[1:] == [
        "status        disabled: TRACKER_DISABLED is set, nothing was measured"
    ]


def test_a_gpu_unlike_the_others_brings_them_out_one_by_one():
    alike = summary_text(replace(MEASURED, devices=tuple(gpu(i) for i in range(4))))
    one_idles = summary_text(replace(MEASURED, devices=(*(gpu(i) for i in range(3)), gpu(3, energy_j=60_000.0))))
    one_lost = summary_text(replace(MEASURED, devices=(*(gpu(i) for i in range(3)), gpu(3, None, coverage=0.0))))

    assert "GPU-00000003..." not in alike
    assert "GPU-00000003..." in one_idles
    assert "16.7 Wh" in one_idles
    assert "GPU-00000003...            counter     0 %  unknown  mean unknown" in one_lost


def test_devices_stand_by_kind_and_a_note_that_many_carry_stands_once():
    def part(kind, name):
        return DeviceEnergy(kind, name, name, "counter", 1.0, 1.0, 1.0, 1.0, notes=("replayed from x",))

    sockets = [(part("cpu_package", f"CPU package-{n}"), part("dram", f"DRAM of package-{n}")) for n in range(2)]
    text = summary_text(replace(MEASURED, devices=(*sockets[0], *sockets[1])))

    assert [line.split("counter")[0].rstrip() for line in text.splitlines() if "counter" in line] == [
        "  CPU   package-0",
        "  CPU   package-1",
        "  DRAM  of package-0",
        "  DRAM  of package-1",
    ]
    assert text.endswith("notes         CPU (2), DRAM (2): replayed from x")


def test_two_alike_devices_are_told_apart_by_their_keys():
    text = summary_text(replace(MEASURED, devices=(gpu(0), gpu(1))))

    assert "NVIDIA H100 80GB HBM3 GPU-00000000..." in text
    assert "NVIDIA H100 80GB HBM3 GPU-00000001..." in text


@pytest.mark.parametrize(
    ("origin", "zone", "value", "text"),
    [
        ("world", ZoneChoice("WORLD", "World", "world"), FRANCE, "world average, as no zone is known"),
        ("guessed", ZoneChoice("FR", "France", "guessed", "time zone X"), FRANCE, "GUESSED from time zone X"),
        (
            "setting",
            ZoneChoice("FR-COR", "Corse", "setting", "argument zone"),
            FRANCE,
            "that of FR, for Corse (FR-COR), set by argument zone",
        ),
        (
            "setting",
            None,
            replace(FRANCE, provider="user", zone="", source="TRACKER_INTENSITY", basis="unknown"),
            "the user's own value (TRACKER_INTENSITY), basis unknown",
        ),
    ],
)
def test_the_intensity_tells_how_its_place_was_found(origin, zone, value, text):
    run = replace(MEASURED, zone=zone, intensity=(IntensityUse(value, origin, 1.0, 0.0, 1),))

    assert text in " ".join(summary_text(run).split())


def test_an_intensity_that_changed_is_shown_as_range_and_mean_by_energy():
    uses = (
        IntensityUse(replace(FRANCE, intensity_g_per_kwh=40.0), "setting", 3_000.0, 0.0, 1),
        IntensityUse(replace(FRANCE, intensity_g_per_kwh=80.0), "setting", 1_000.0, 0.0, 1),
    )

    text = summary_text(replace(MEASURED, intensity=uses))

    assert "40.0 g/kWh to 80.0 g/kWh (mean by energy 50.0 g/kWh)" in " ".join(text.split())


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_the_summary_or_escapes_into_html(name):
    run = replace(
        MEASURED,
        name=name,
        project=name,
        tags={name: name},
        devices=(replace(gpu(), name=name, notes=(name,)),),
        not_measured=(NotMeasured("dram", name, name, name),),
        zone=ZoneChoice("FR", name, "setting", name),
        warnings=(name,),
    )

    lines = summary_text(run).split("\n")
    fragment = summary_html(run)

    assert all(columns_of(line) <= 80 for line in lines)
    assert all(line.isprintable() for line in lines)
    assert "<script" not in fragment
    fragment.encode("utf-8")


def test_the_html_holds_what_the_text_holds():
    fragment = html.unescape(summary_html(replace(MEASURED, warnings=("a < b & c",))))

    for text in ("1.25 kWh, coverage 99.9 %", "<td>8 x NVIDIA H100 80GB HBM3</td><td>counter</td>", "a < b & c"):
        assert text in fragment


def test_a_record_shows_itself():
    assert MEASURED.summary() == summary_text(MEASURED)
    assert MEASURED._repr_html_() == summary_html(MEASURED)
    assert str(Comparison((MEASURED,))) == comparison_text(Comparison((MEASURED,)))


def test_views_of_records_with_plain_names_are_ascii():
    runs = (MEASURED, NOTHING_MEASURED)

    assert all(summary_text(run).isascii() for run in runs)
    assert runs_table(runs).isascii()
    assert comparison_text(Comparison(runs)).isascii()


def test_boards_whose_ids_begin_alike_are_told_apart():
    alike = [replace(gpu(n, energy_j=10.0 ** (n + 1)), key=f"GPU-00000000-0000-0000-0000-{n:012d}") for n in range(4)]

    text = summary_text(replace(MEASURED, devices=tuple(alike)))

    assert all(f"...{n:012d}" in text for n in range(4))


def test_namesakes_that_fare_differently_say_which_is_which():
    board = "NVIDIA A100-SXM4-80GB"
    keys = [f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abcd"]
    run = replace(
        MEASURED,
        devices=(
            DeviceEnergy("gpu", keys[0], board, "counter", 3600.0, 100.0, 120.0, 1.0),
            DeviceEnergy("gpu", keys[1], board, "none", None, None, None, 0.0),
        ),
        not_measured=(
            NotMeasured("gpu", board, "neither power nor energy is supported", key=keys[2]),
            NotMeasured("gpu", board, "an impossible power was read", key=keys[1]),
            NotMeasured("gpu", "GPU 0", "no answer, lost", "reboot"),
        ),
    )

    lines = [" ".join(line.split()) for line in summary_text(run, 120).splitlines()]

    assert any(line.startswith(f"GPU {board} GPU-aaaaaaaa... counter 100 %") for line in lines)
    assert any(line.startswith(f"GPU {board} GPU-bbbbbbbb... none") for line in lines)
    assert any(line.endswith(f"GPU {board} GPU-cccccccc...: neither power nor energy is supported") for line in lines)
    assert f"GPU {board} GPU-bbbbbbbb...: an impossible power was read" in lines
    assert "GPU 0: no answer, lost" in lines
