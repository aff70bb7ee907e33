"""Whether a writer still lives: judged by a fake look-up, and of real processes."""

from __future__ import annotations

import dataclasses

import pytest
from stored_runs import HERE, python

from tracker.machine import process_start, this_segment
from tracker.store.liveness import SILENCE_LIMIT_US, is_alive

NOW_US = 1_000_000_000_000_000
RUNNING = {HERE.pid: HERE.pid_start}


def judged(segment, *, silent_us=0, here=HERE, running=RUNNING):
    return is_alive(segment, NOW_US - silent_us, NOW_US, here, running.get)


def test_a_process_of_this_machine_lives_however_long_it_is_silent():
    assert judged(HERE, silent_us=10 * SILENCE_LIMIT_US)


def test_a_process_that_is_gone_is_dead_however_short_its_silence():
    assert not judged(HERE, running={})


def test_a_later_process_with_the_same_number_is_another_one():
    assert not judged(HERE, running={HERE.pid: HERE.pid_start + 1})


@pytest.mark.parametrize("elsewhere", [{"host": "node2"}, {"boot_id": "boot-b"}, {"pid_namespace": 7}])
def test_a_process_elsewhere_is_believed_for_ten_minutes(elsewhere):
    segment = dataclasses.replace(HERE, **elsewhere)

    assert judged(segment, silent_us=SILENCE_LIMIT_US, running={})
    assert not judged(segment, silent_us=SILENCE_LIMIT_US + 1, running=RUNNING)


@pytest.mark.parametrize("unknown", [{"boot_id": ""}, {"pid_namespace": 0}, {"pid_start": 0}])
def test_a_process_without_an_identity_is_believed_for_ten_minutes(unknown):
    segment = dataclasses.replace(HERE, **unknown)
    here = dataclasses.replace(HERE, **unknown)

    assert judged(segment, here=here, running={})
    assert not judged(segment, here=here, running={}, silent_us=SILENCE_LIMIT_US + 1)


def test_a_killed_process_is_dead_and_a_living_one_alive():
    code = "import dataclasses, sys; from tracker.machine import this_segment; s = this_segment(); "
    child = python(code + "print(s.pid, s.pid_start, flush=True); sys.stdin.read()")
    pid, start = map(int, child.stdout.readline().split())
    here = this_segment()
    segment = dataclasses.replace(here, pid=pid, pid_start=start)

    was_alive = is_alive(segment, NOW_US, NOW_US, here, process_start)
    child.kill()
    child.communicate()

    assert was_alive
    assert not is_alive(segment, NOW_US, NOW_US, here, process_start)
