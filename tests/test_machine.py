"""What is said of the machine a run was on."""

import os

from tracker.machine import hardware, this_segment


def test_the_first_cpus_model_and_the_memory_are_told(tmp_path):
    first = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\n"
    (tmp_path / "cpuinfo").write_text(first + "processor\t: 1\nmodel name\t: another\n" * 1000)
    (tmp_path / "meminfo").write_text("MemTotal:       24684096 kB\nMemFree:        1 kB\n")
    told = hardware(tmp_path)
    assert told["cpu"] == "Some CPU @ 2.00GHz"
    assert told["memory_bytes"] == str(24684096 * 1024)
    assert told["logical_cpus"] == str(os.cpu_count())


def test_what_cannot_be_read_is_left_out(tmp_path):
    assert not {"cpu", "memory_bytes"} & hardware(tmp_path).keys()
    (tmp_path / "cpuinfo").write_bytes(b"\xff\xfe no fields here")
    (tmp_path / "meminfo").write_text("MemTotal: unknown\n")
    assert not {"cpu", "memory_bytes"} & hardware(tmp_path).keys()


def test_a_segment_carries_the_hardware_and_nothing_in_it_names_the_machine():
    segment = this_segment()
    assert segment.hardware == hardware()
    assert segment.host not in segment.hardware.values()
