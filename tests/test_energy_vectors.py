"""Closed-form answers of tests/data/test_vectors.json; DESIGN.md, section 4, says how each is to be read."""

import json
import math
from pathlib import Path

import pytest
from energy_reference import RAPL_MAX_UJ, gpu, samples_of

from tracker.energy import EdgeEnergy, Rules, integrate, window_bias_bound
from tracker.units import JOULES_PER_KWH, TWICE_NANOJOULES_PER_J, joules_of_twice_nj

VECTORS = {v["name"]: v for v in json.loads((Path(__file__).parent / "data" / "test_vectors.json").read_text())}
POWER = Rules(has_counter=False, has_power=True)
SINE_TOLERANCE_W = 0.0005  # the columns hold whole milliwatts


def us(seconds: list[float]) -> list[int]:
    return [round(s * 1e6) for s in seconds]


def mw(watts: list[float | None]) -> list[int | None]:
    return [None if w is None else round(w * 1e3) for w in watts]


def energy(vector: dict, edges_s: list[float] | None = None, rules: Rules = POWER) -> EdgeEnergy:
    t_s = vector["t"]
    scale = {"c_mJ": 1_000, "c_uJ": 1, "counter_J": 1_000_000}
    counter_uj = next(([c * scale[k] for c in vector[k]] for k in scale if k in vector), None)
    samples = samples_of(us(t_s), mw(vector["P"]) if "P" in vector else None, counter_uj)
    return integrate(samples, us(edges_s or [min(t_s), max(t_s)]), rules)


def total_j(energy: EdgeEnergy) -> float:
    return joules_of_twice_nj(energy.total_twice_nj)


def emissions_g(energy: EdgeEnergy, intensity_g_per_kwh: list[float]) -> float:
    slots = zip(energy.twice_energy_nj.tolist(), intensity_g_per_kwh, strict=True)
    return sum(joules_of_twice_nj(e) / JOULES_PER_KWH * i for e, i in slots)


@pytest.mark.parametrize("name", [n for n, v in VECTORS.items() if "tau" in v])
def test_energy_is_priced_in_the_slot_in_which_it_was_used(name: str) -> None:
    vector = VECTORS[name]
    start_s, end_s = vector["t"][0], vector["t"][-1]
    rules = gpu() if "counter_J" in vector else POWER

    slots = energy(vector, [start_s, *(t for t in vector["tau"] if t > start_s), end_s], rules)

    assert emissions_g(slots, vector["I"]) == pytest.approx(vector["g"], rel=1e-12)
    if "J" in vector:
        assert slots.total_twice_nj == vector["J"] * TWICE_NANOJOULES_PER_J
    if "slot_J" in vector:
        assert [joules_of_twice_nj(e) for e in slots.twice_energy_nj.tolist()] == vector["slot_J"]
    if "slot_kWh" in vector:
        kwh = [joules_of_twice_nj(e) / JOULES_PER_KWH for e in slots.twice_energy_nj.tolist()]
        assert kwh == pytest.approx(vector["slot_kWh"], rel=1e-12)


def square_w(t_s: float) -> float:
    return 500 if t_s % 2 < 1 else 100


def test_a_square_wave_sampled_at_mid_phase_is_exact() -> None:
    t_s = [0.5 + k for k in range(3600)]

    got = energy({"t": t_s, "P": [square_w(t) for t in t_s]})

    assert total_j(got) == VECTORS["square_mid_phase"]["J"]


def test_a_square_wave_sampled_once_a_period_is_flagged_as_possibly_aliased() -> None:
    t_s = list(range(0, 3601, 2))

    got = energy({"t": t_s, "P": [square_w(t) for t in t_s]})

    assert total_j(got) == VECTORS["square_aliased"]["J"]
    assert got.findings.is_evenly_spaced


@pytest.mark.parametrize(
    ("name", "end_s", "step_s"),
    [
        ("sine_full_periods", 3600, 10),
        ("sine_half_h50", 300, 50),
        ("sine_half_h10", 300, 10),
        ("sine_half_h1", 300, 1),
    ],
)
def test_a_sine_is_right_to_half_a_milliwatt(name: str, end_s: int, step_s: int) -> None:
    vector = VECTORS[name]
    t_s = list(range(0, end_s + 1, step_s))
    want_j = vector["J"] if "J" in vector else vector["true_J"] + vector["trapezoid_error"]

    got = energy({"t": t_s, "P": [300 + 200 * math.sin(2 * math.pi * t / 600) for t in t_s]})

    assert total_j(got) == pytest.approx(want_j, abs=SINE_TOLERANCE_W * end_s)


def test_a_gap_in_power_is_not_bridged() -> None:
    vector = VECTORS["gap_power_only"]
    t_s = [*range(11), *range(610, 621)]

    got = energy({"t": t_s, "P": [100] * 22}, rules=Rules(has_counter=False, has_power=True, gap_us=10_000_000))

    assert total_j(got) == vector["J_measured"]
    assert int(got.covered_us[0]) / 620e6 == vector["coverage"]
    assert got.findings.gap_us == 600_000_000


def test_a_counter_carries_the_energy_across_a_gap() -> None:
    got = energy(VECTORS["gap_with_counter"], rules=gpu(has_power=False))

    assert total_j(got) == VECTORS["gap_with_counter"]["J"]
    assert got.covered_us.tolist() == [620_000_000]


def rapl(vector: dict) -> Rules:
    assert vector["max_energy_range_uj"] == RAPL_MAX_UJ
    return Rules(
        has_counter=True,
        has_power=False,
        counter_modulus_uj=RAPL_MAX_UJ + VECTORS["rapl_wrap"]["unit_uJ"],
        max_power_mw=vector["pmax_W"] * 1000,
    )


def test_a_wrapped_counter_goes_on() -> None:
    got = energy(VECTORS["rapl_wrap"], rules=rapl(VECTORS["rapl_wrap"]))

    assert total_j(got) == VECTORS["rapl_wrap"]["J"]
    assert got.findings.wraps == 1


def test_a_restarted_rapl_counter_is_no_wrap_and_its_cell_unknown() -> None:
    got = energy(VECTORS["rapl_reset_not_wrap"], rules=rapl(VECTORS["rapl_reset_not_wrap"]))

    assert (got.findings.resets, got.findings.wraps) == (1, 0)
    assert (got.total_twice_nj, got.covered_us.tolist()) == (0, [0])


def test_a_restarted_gpu_counter_leaves_its_cell_to_the_trace() -> None:
    vector = VECTORS["nvml_reset"]

    got = energy(vector, vector["t"], gpu())

    assert [joules_of_twice_nj(e) for e in got.twice_energy_nj.tolist()] == vector["cell_J"]
    assert got.findings.resets == 1


def test_a_single_sample_covers_no_time() -> None:
    got = energy(VECTORS["single_sample"], [0, 10])

    assert (got.total_twice_nj, got.covered_us.tolist(), got.max_power_mw.tolist()) == (0, [0], [-1])
    assert got.findings.samples == 1


def test_no_sample_covers_no_time() -> None:
    got = energy(VECTORS["empty"], [0, 10])

    assert (got.total_twice_nj, got.covered_us.tolist(), got.findings.samples) == (0, [0], 0)


def test_samples_in_any_order_and_twice_are_no_matter() -> None:
    got = energy(VECTORS["unsorted_dup"])

    assert total_j(got) == VECTORS["unsorted_dup"]["J"]
    assert got.findings.conflicts == 0


def test_two_powers_at_one_stamp_make_a_step() -> None:
    got = energy(VECTORS["dup_conflict"])

    assert total_j(got) == VECTORS["dup_conflict"]["J_mean"]
    assert got.findings.conflicts == 1


def test_a_missing_reading_within_the_gap_limit_is_bridged() -> None:
    assert total_j(energy(VECTORS["nan"])) == VECTORS["nan"]["J"]


def test_a_sensor_that_averages_misses_half_its_window_at_an_edge() -> None:
    vector = VECTORS["averaged_sensor_edge"]
    t_s = list(range(61))

    got_j = total_j(energy({"t": t_s, "P": [min(70 + 630 * t, 700) for t in t_s]}))

    assert (got_j, got_j - vector["true_J"]) == (vector["J"], vector["error_J"])


@pytest.mark.parametrize("window_ms", [25, 100])
def test_a_window_shorter_than_a_locked_load_is_biased(window_ms: int) -> None:
    want = VECTORS[f"window_{window_ms}_of_100_square_100ms"]["worst_rel_bias"]

    assert window_bias_bound(window_ms * 1000, 100_000, low_w=100, high_w=500) == pytest.approx(want, abs=1e-15)


def test_every_vector_is_used() -> None:
    text = Path(__file__).read_text()
    missing = [n for n, v in VECTORS.items() if "tau" not in v and f'"{n}"' not in text and "window_" not in n]

    assert missing == []
