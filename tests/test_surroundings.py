"""What kind of place this is, by its marks."""

from pathlib import Path

import pytest

from tracker.session.surroundings import surroundings


def place(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def look(root: Path, environ=(), system="Linux", release="6.8.0-45-generic"):
    return surroundings(environ=dict(environ), root=root, system=system, release=release)


@pytest.mark.parametrize(
    ("environ", "release", "files", "places"),
    [
        ({}, "6.8.0-45-generic", {}, ()),
        ({"COLAB_RELEASE_TAG": "x"}, "6.6.56+", {"run__systemd__container": "docker"}, ("Google Colab", "container")),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, "6.6.56+", {}, ("Kaggle",)),
        ({}, "5.15.153.1-microsoft-standard-WSL2", {}, ("WSL 2",)),
        ({}, "4.4.0-19041-Microsoft", {}, ("WSL 1",)),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "container": "oci"}, "6.8.0", {}, ("Kubernetes", "container")),
        ({}, "6.8.0", {"run__.containerenv": ""}, ("container",)),
        ({}, "6.8.0", {"proc__cpuinfo": "flags\t\t: fpu hypervisor sse\n\nflags : x\n"}, ("virtual machine",)),
        ({"SLURM_JOB_ID": "1"}, "6.8.0", {}, ("Slurm job",)),
    ],
)
def test_a_place_is_recognised_by_its_marks(tmp_path, environ, release, files, places):
    assert look(place(tmp_path, **files), environ, release=release).places == places


def test_the_limits_of_control_groups_are_told_beside_what_the_machine_has(tmp_path):
    root = place(
        tmp_path,
        proc__meminfo="MemTotal:       64000000 kB\n",
        proc__self__cgroup="0::/\n",
        **{
            "sys__fs__cgroup__cgroup.controllers": "cpu memory\n",
            "sys__fs__cgroup__cpu.max": "50000 100000\n",
            "sys__fs__cgroup__memory.max": "8000000000\n",
        },
    )

    found = look(root)

    assert (found.limit_cpus, found.limit_memory_bytes, found.memory_bytes) == (0.5, 8_000_000_000, 65_536_000_000)


def test_a_limit_beyond_what_there_is_is_none(tmp_path):
    root = place(
        tmp_path,
        proc__meminfo="MemTotal:       64000000 kB\n",
        proc__self__cgroup="4:memory:/\n",
        **{"sys__fs__cgroup__memory__memory.limit_in_bytes": "9223372036854771712\n"},
    )

    assert look(root).limit_memory_bytes is None


@pytest.mark.parametrize(("system", "shown"), [("Darwin", "macOS 23.5.0"), ("Windows", "Windows 23.5.0")])
def test_a_system_without_proc_is_told_by_its_name(tmp_path, system, shown):
    found = look(tmp_path, system=system, release="23.5.0")

    assert found.system.startswith(shown)
    assert (found.places, found.pid_namespace, found.memory_bytes, found.limit_cpus) == ((), "unknown", None, None)
