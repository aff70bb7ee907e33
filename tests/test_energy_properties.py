"""Laws of energy, for traces that hypothesis makes up."""

from itertools import pairwise

import numpy as np
import pytest
from energy_reference import columns, gpu, part, reference, samples_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracker.energy import EdgeEnergy, Piece, Rules, Stream, integrate
from tracker.records import Samples

MAX_POWER_MW = 700_000
MODULUS_UJ = 262_143_328_911
STEPS_US = st.one_of(st.just(1_000_000), st.integers(1, 3_000_000), st.integers(1, 3), st.just(0))


@st.composite
def traces(draw: st.DrawFn, *, faults: bool = True) -> Samples:
    """Up to 40 samples: gaps, missing readings, equal stamps, and counters that wrap, restart, stand still or lie."""
    count = draw(st.integers(2, 40))
    steps = STEPS_US if not faults else st.one_of(STEPS_US, st.integers(3_000_000, 10**9))
    t_us = np.cumsum([draw(st.integers(0, 10**12)), *(draw(steps) for _ in range(count - 1))]).tolist()
    powers = st.one_of(st.integers(0, MAX_POWER_MW), st.sampled_from([0, 50_000, 700_000]))
    power_mw = [draw(powers) for _ in range(count)]
    counter_uj = [draw(st.integers(0, MODULUS_UJ - 1))]
    for i in range(1, count):
        moved = (power_mw[i] + power_mw[i - 1]) * (t_us[i] - t_us[i - 1]) // 2000
        counter_uj.append(counter_uj[-1] + moved)
        if faults:
            counter_uj[-1] += draw(st.sampled_from([0, 0, 0, -moved, -moved, 10**9, -counter_uj[-1] + 5]))
            counter_uj[-1] = max(0, counter_uj[-1]) % MODULUS_UJ
    if faults:
        power_mw = [draw(st.sampled_from([p, p, p, None, -1, 2**32 - 1])) for p in power_mw]
        counter_uj = [draw(st.sampled_from([c, c, c, None])) for c in counter_uj]
    return samples_of(t_us, power_mw, counter_uj)


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    has_counter = draw(st.booleans())
    return Rules(
        has_counter=has_counter,
        has_power=not has_counter or draw(st.booleans()),
        gap_us=draw(st.sampled_from([None, 1_500_000, 5_000_000])),
        max_power_mw=draw(st.sampled_from([None, MAX_POWER_MW])),
        counter_modulus_uj=draw(st.sampled_from([None, MODULUS_UJ])),
        counter_period_us=draw(st.sampled_from([None, 0, 100_000, 2_000_000])),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Samples, list[int], Rules]:
    """A trace, edges around, in and on its samples, and rules."""
    device = draw(rules())
    samples = draw(traces())
    near = st.one_of(
        st.sampled_from(samples.t_us.tolist()),
        st.integers(int(samples.t_us[0]) - 10**7, int(samples.t_us[-1]) + 10**7),
    )
    edges_us = sorted(draw(st.sets(near, min_size=2, max_size=8)))
    return samples, edges_us, device


def bits(energy: EdgeEnergy) -> tuple:
    arrays = (energy.edges_us, energy.twice_energy_nj, energy.covered_us, energy.max_power_mw)
    return *(a.tolist() for a in arrays), energy.findings


@given(cases())
@settings(max_examples=150, deadline=None)
def test_energy_is_what_its_definition_says(case: tuple[Samples, list[int], Rules]) -> None:
    samples, edges_us, device = case

    got = integrate(samples, edges_us, device)

    want, slack = reference(samples, edges_us, device)
    assert got.covered_us.tolist() == [covered for _, covered, _ in want]
    assert got.max_power_mw.tolist() == [peak for _, _, peak in want]
    for mine, (exact, _, _) in zip(got.twice_energy_nj.tolist(), want, strict=True):
        assert abs(mine - exact) <= slack


@given(cases(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_stream_gives_the_same_bits_for_any_cuts(case: tuple[Samples, list[int], Rules], data: st.DataObject) -> None:
    samples, edges_us, device = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(samples)), max_size=6)))
    stream = Stream(device)

    settled = [stream.push(part(samples, a, b), edges_us) for a, b in pairwise([0, *cuts, len(samples)])]
    settled.append(stream.finish(edges_us))

    assert bits(added_up(settled, edges_us)) == bits(integrate(samples, edges_us, device))


def added_up(settled: list[EdgeEnergy], edges_us: list[int]) -> EdgeEnergy:
    """The blocks of a stream, put together by what their intervals say."""
    count = len(edges_us) - 1
    energy, covered, peak = [0] * count, [0] * count, [-1] * count
    findings = settled[0].findings
    for block in settled[1:]:
        findings = findings + block.findings
    ends = [(b.edges_us[0], b.edges_us[-1]) for b in settled if len(b.edges_us)]
    assert all(a[1] == b[0] for a, b in pairwise(ends)), "blocks do not meet"
    for block in settled:
        rows = zip(block.edges_us.tolist(), block.twice_energy_nj, block.covered_us, block.max_power_mw, strict=False)
        for start_us, *row in rows:
            k = int(np.searchsorted(edges_us, start_us, side="right")) - 1
            if 0 <= k < count:
                energy[k], covered[k], peak[k] = energy[k] + row[0], covered[k] + row[1], max(peak[k], row[2])
    return EdgeEnergy(np.array(edges_us), np.array(energy), np.array(covered), np.array(peak), findings)


@given(cases(), st.data())
@settings(max_examples=150, deadline=None)
def test_pieces_join_to_the_same_bits_in_any_order(case: tuple[Samples, list[int], Rules], data: st.DataObject) -> None:
    samples, edges_us, device = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(samples)), max_size=6)))
    pieces = [Piece.of(part(samples, a, b), edges_us, device) for a, b in pairwise([0, *cuts, len(samples)])]

    while len(pieces) > 1:
        i = data.draw(st.integers(0, len(pieces) - 2))
        pieces[i : i + 2] = [pieces[i].join(pieces[i + 1])]

    assert bits(pieces[0].total()) == bits(integrate(samples, edges_us, device))


@given(cases(), st.randoms())
def test_the_order_of_samples_is_no_matter(case: tuple[Samples, list[int], Rules], random: object) -> None:
    samples, edges_us, device = case
    _, first = np.unique(samples.t_us, return_index=True)  # those of one stamp count in the order they came
    order = first.copy()
    random.shuffle(order)
    in_order, shuffled = (Samples(samples.device, *(c[o] for c in columns(samples))) for o in (first, order))

    assert bits(integrate(shuffled, edges_us, device)) == bits(integrate(in_order, edges_us, device))


@given(cases())
def test_intervals_add_up_to_the_whole(case: tuple[Samples, list[int], Rules]) -> None:
    samples, edges_us, device = case

    got = integrate(samples, edges_us, device)
    whole = integrate(samples, [edges_us[0], edges_us[-1]], device)

    assert got.total_twice_nj == whole.total_twice_nj
    assert int(got.covered_us.sum()) == int(whole.covered_us[0])
    assert got.max_power_mw.max() == whole.max_power_mw[0] or not device.has_power


@given(cases())
def test_no_interval_leaves_its_bounds(case: tuple[Samples, list[int], Rules]) -> None:
    samples, edges_us, device = case

    got = integrate(samples, edges_us, device)

    assert np.all((got.covered_us >= 0) & (got.covered_us <= np.diff(edges_us)))
    assert np.all(got.twice_energy_nj >= 0)
    assert np.all(got.twice_energy_nj[got.covered_us == 0] == 0)
    if not device.has_counter:
        assert np.all(got.twice_energy_nj <= 2 * got.max_power_mw * got.covered_us)
    if not device.has_counter and device.max_power_mw:
        assert np.all(got.max_power_mw <= 2 * device.max_power_mw)


@given(st.integers(0, MAX_POWER_MW), st.lists(st.integers(1, 10**7), min_size=1, max_size=30), st.data())
def test_constant_power_times_time(power_mw: int, steps_us: list[int], data: st.DataObject) -> None:
    t_us = np.cumsum([0, *steps_us]).tolist()
    edges_us = sorted(data.draw(st.sets(st.integers(0, t_us[-1]), min_size=2, max_size=9)))

    got = integrate(samples_of(t_us, [power_mw] * len(t_us)), edges_us, Rules(has_counter=False, has_power=True))

    assert got.twice_energy_nj.tolist() == (2 * power_mw * np.diff(edges_us)).tolist()
    assert got.max_power_mw.tolist() == [power_mw] * (len(edges_us) - 1)


@given(traces(faults=False), st.integers(1, 3000))
def test_energy_grows_with_power_and_with_time(samples: Samples, factor: int) -> None:
    power = Rules(has_counter=False, has_power=True)
    t_us, power_mw = samples.t_us - samples.t_us[0], samples.power_mw
    whole_us = [0, int(t_us[-1]) + 1]

    once = integrate(samples_of(t_us.tolist(), power_mw.tolist()), whole_us, power)
    stronger = integrate(samples_of(t_us.tolist(), (power_mw * factor).tolist()), whole_us, power)
    longer = integrate(samples_of((t_us * factor).tolist(), power_mw.tolist()), [0, whole_us[1] * factor], power)

    assert stronger.total_twice_nj == longer.total_twice_nj == once.total_twice_nj * factor


@given(traces(faults=False), st.integers(0, MODULUS_UJ - 1), st.data())
@example(samples_of([0, 10**6], [0, 0], [0, 0]), 0, None)
def test_a_wrap_anywhere_changes_nothing(samples: Samples, start_uj: int, data: st.DataObject | None) -> None:
    counter_uj = samples.counter_uj - samples.counter_uj[0]
    device = gpu(counter_modulus_uj=MODULUS_UJ, max_power_mw=MAX_POWER_MW, counter_period_us=None)
    edges_us = [int(samples.t_us[0]), int(samples.t_us[-1]) + 1]
    t_us, power_mw = samples.t_us.tolist(), samples.power_mw.tolist()

    plain = integrate(samples_of(t_us, power_mw, counter_uj.tolist()), edges_us, device)
    wrapped_uj = ((counter_uj + start_uj) % MODULUS_UJ).tolist()
    wrapped = integrate(samples_of(t_us, power_mw, wrapped_uj), edges_us, device)

    assert bits(wrapped)[:4] == bits(plain)[:4]
    assert wrapped.findings.resets == 0


@given(traces(faults=False), st.data())
def test_missing_readings_of_a_counter_never_change_the_total(samples: Samples, data: st.DataObject) -> None:
    t_us, count = samples.t_us.tolist(), len(samples)
    counter_uj = (samples.counter_uj + np.arange(count)).tolist()  # always moves
    device = gpu(gap_us=1)
    kept = data.draw(st.sets(st.integers(0, count - 1)))
    edges_us = [t_us[0], t_us[-1] + 1]
    holes = [
        c if i in kept or t in (t_us[0], t_us[-1]) else None
        for i, (t, c) in enumerate(zip(t_us, counter_uj, strict=True))
    ]
    holed_mw = [p if i in kept else None for i, p in enumerate(samples.power_mw.tolist())]

    whole = integrate(samples_of(t_us, samples.power_mw.tolist(), counter_uj), edges_us, device)
    holed = integrate(samples_of(t_us, holed_mw, holes), edges_us, device)

    assert holed.total_twice_nj == whole.total_twice_nj
    assert holed.covered_us.tolist() == whole.covered_us.tolist()


@pytest.mark.parametrize("has_counter", [False, True])
def test_the_fast_way_and_the_careful_way_give_the_same_bits(has_counter: bool) -> None:
    rng = np.random.default_rng(7)
    count = 300_000
    t_us = np.cumsum(rng.integers(1, 2_000_000, count))
    power_mw = rng.integers(0, MAX_POWER_MW, count)
    counter_uj = 10**9 + np.cumsum((power_mw + 1) * np.diff(t_us, prepend=0) // 1000 + 1)
    known = np.ones(count, bool)
    device = gpu(gap_us=5_000_000, has_counter=has_counter)
    edges_us = np.unique(np.concatenate((rng.choice(t_us, 2000), rng.integers(-9, t_us[-1] + 10**6, 4000))))
    base = samples_of([0])
    fast = Samples(base.device, t_us, power_mw, known, counter_uj, known, power_mw, ~known)
    # One doubled sample in each few thousand is no other energy, but keeps every block from the fast way.
    twice = np.sort(np.concatenate((np.arange(count), np.arange(0, count, 2000))))
    careful = Samples(base.device, *(c[twice] for c in (t_us, power_mw, known, counter_uj, known, power_mw, ~known)))

    one, other = integrate(fast, edges_us, device), integrate(careful, edges_us, device)

    assert bits(one)[:4] == bits(other)[:4]
    assert one.findings.compared_power_twice_nj == other.findings.compared_power_twice_nj
