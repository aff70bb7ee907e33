"""What doctor prints names nobody."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.records import Device
from tracker.session.privacy import Privacy

HOME = Path("/export/people/alice.b+c")
HIDE = Privacy(
    ["secret-llm", "two words"],
    environ={"TRACKER_GRID_TOKEN": "t0k3n-of-alice", "PATH": "/usr/bin:/bin", "API_KEY": "short"},
    home=HOME,
    cwd=HOME / "secret-llm" / "sub",
    users=["alice.b+c", "root", ""],
    hosts=["gpu07.cluster.example", "gpu07"],
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{HOME}/.config/tracker/config.toml: pue", "~/.config/tracker/config.toml: pue"),
        (f"{HOME}", "~"),
        (f"{HOME}x/runs.db", f"{HOME}x/runs.db"),
        (f"{HOME}/secret-llm/sub/tracker.toml: zone", "./tracker.toml: zone"),
        (f"{HOME}/secret-llm/pyproject.toml: zone", "../pyproject.toml: zone"),
        ("/scratch/alice.b+c/secret-llm/runs.db", "/scratch/<user>/<project>/runs.db"),
        ("/data/gpu07/x on gpu07.cluster.example:/x", "/data/<host>/x on <host>:/x"),
        ("/data/two words/runs.db", "/data/<project>/runs.db"),
        ("replayed from secret-llm.csv by alice", "replayed from <project>.csv by alice"),
        ("/home/bob/shared/runs.db", "/home/<user>/shared/runs.db"),
        (r"C:\Users\bob\runs.db", r"C:\Users\<user>\runs.db"),
        ("chmod g+r /sys/class/powercap/*/energy_uj", "chmod g+r /sys/class/powercap/*/energy_uj"),
        ("the user's own value, 40 g/kWh", "the user's own value, 40 g/kWh"),
        ("no zone is called 't0k3n-of-alice'", "no zone is called '***'"),
        ("http://me:p/a@ss@host/trace.csv?token=abc cannot", "http://***@host/trace.csv?*** cannot"),
        ("/x/http:/me:pass@host/trace.csv", "/x/http:/***@host/trace.csv"),
        ("GPU-3f9c2a7e-1111-2222-3333-444455556666 is absent", "GPU-3f9c2a7e… is absent"),
    ],
)
def test_names_paths_and_secrets_are_taken_out_and_the_rest_stays(text, shown):
    assert HIDE.text(text) == shown


def test_a_server_is_no_more_than_its_kind():
    assert HIDE.place("postgresql+psycopg://me:secret@db.example/x?sslkey=y") == "postgresql+psycopg://…"
    assert HIDE.place(f"{HOME}/runs.db") == "~/runs.db"


def test_every_text_of_a_device_is_gone_through():
    uuid = "GPU-3f9c2a7e-1111-2222-3333-444455556666"
    device = Device("gpu", uuid, f"{HOME}/n", "nvml", True, True, attributes={"uuid": uuid}, notes=(f"{HOME}/n",))

    shown = HIDE.device(device)

    assert (shown.key, shown.name, shown.notes) == ("GPU-3f9c2a7e…", "~/n", ("~/n",))
    assert shown.attributes == {"uuid": "GPU-3f9c2a7e…"}


@pytest.mark.parametrize("home", [None, Path("/"), Path("/root")])
def test_a_process_without_a_home_of_its_own_is_served_too(home):
    hide = Privacy(environ={}, home=home, cwd=Path("/"), users=[], hosts=[])

    assert hide.text("/sys/class and /var/lib/runs.db") == "/sys/class and /var/lib/runs.db"


NAMES = st.text("abcXYZ019.+-_ü", min_size=2, max_size=12).filter(
    lambda name: re.fullmatch(r"[a-zA-Z0-9ü].*", name) and ".." not in name
)


@settings(max_examples=60)
@given(user=NAMES, project=NAMES, below=st.sampled_from(["", "/runs.db", "/a b/runs.db"]))
def test_neither_home_nor_user_nor_project_is_left_in_any_path(user, project, below):
    home = Path("/people") / user
    hide = Privacy([project], environ={}, home=home, cwd=home / project, users=[user], hosts=[])

    for path in (home, home / project, Path("/data") / user, Path("/data") / project / user):
        shown = hide.text(f"cannot read {path}{below}: denied")
        assert shown.startswith("cannot read ") and shown.endswith(": denied")
        assert str(home) not in shown
        assert not {user, project} & set(shown.split()[2].rstrip(":").split("/"))
