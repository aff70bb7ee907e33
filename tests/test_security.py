"""What SECURITY.md promises: what the code must not contain, planted files, private files, secrets, bounded input."""

from __future__ import annotations

import ast
import contextlib
import gzip
import os
import re
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from grid_server import Reply
from hypothesis import given, settings
from hypothesis import strategies as st
from standin.nvml import Const, Gpu
from stored_runs import ROOT, a_run, store_run

import tracker
from tracker.errors import IntensityFileError, StoreError, TraceError
from tracker.intensity.providers import ownfile
from tracker.machine import boottime_us
from tracker.sensors import replay
from tracker.sensors.replay import ReplaySensor
from tracker.session.beside import own_folder, run_folder
from tracker.session.election import Seat, private_folder
from tracker.session.folding import run_files
from tracker.session.provenance import MASK, masked_argv, masked_url
from tracker.settings import resolve
from tracker.store.opening import open_for_reading, open_for_writing

SOURCES = [*sorted((ROOT / "tracker").rglob("*.py")), *sorted((ROOT / "migrations").rglob("*.py"))]
STRANGER = 65534  # "nobody"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make another user's file")

EVALUATING = {"eval", "exec", "compile", "__import__"}
UNPICKLING = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
RUNNING_A_SHELL = {"os.system", "os.popen", "tempfile.mktemp", "subprocess.getoutput", "subprocess.getstatusoutput"}
ASKING_A_DATABASE = {"execute", "executemany", "executescript", "exec_driver_sql"}
# Who loads code by a name: names of our own, of NVIDIA's binding, of the extras, and of plug-ins that are installed.
LOADING = {"tracker/__init__.py", "tracker/cli/__init__.py", "tracker/sensors/nvml.py"}


def dangers(source: str, name: str = "x.py") -> Iterator[str]:
    """What in this code evaluates text, unpickles, runs a shell, or makes SQL of anything but constants and numbers."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"import of {module}" for module in named if module.partition(".")[0] in UNPICKLING)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in EVALUATING or called in RUNNING_A_SHELL:
            yield called
        if called.endswith("import_module") and name not in LOADING:
            yield called
        if any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in node.keywords):
            yield "shell"
        asks = called in ("text", "sa.text") or called.rpartition(".")[2] in ASKING_A_DATABASE
        if asks and node.args and not is_fixed(node.args[0]):
            yield f"{called} of text made up at run time: {ast.unparse(node.args[0])}"


def is_fixed(sql: ast.expr) -> bool:
    """Whether an argument holds no text from outside: no piece but what is formatted as a whole number."""
    if isinstance(sql, ast.JoinedStr):
        holes = [part for part in sql.values if isinstance(part, ast.FormattedValue)]
        return all(hole.format_spec is not None and ast.unparse(hole.format_spec) == "f'd'" for hole in holes)
    if isinstance(sql, ast.BinOp):
        return is_fixed(sql.left) and is_fixed(sql.right) and isinstance(sql.op, ast.Add)
    return not (isinstance(sql, ast.Call) and ast.unparse(sql.func).endswith((".format", ".join", ".replace")))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_evaluated_or_unpickled_and_sql_takes_values_by_parameters(path):
    assert list(dangers(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))) == []


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)",
        "exec('x')",
        "import pickle",
        "from marshal import loads",
        "import yaml",
        "os.system(command)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=is_shell)",
        "import_module(name)",
        "connection.execute(f'SELECT * FROM runs WHERE name = {name}')",
        "connection.execute(f'SELECT {name!r:s}')",
        "raw.execute('SELECT %s' % name)",
        "sa.text('SELECT ' + 'x' % y)",
        "raw.executescript('SELECT {}'.format(name))",
    ],
)
def test_the_look_for_dangers_finds_them(code):
    assert list(dangers(code))


# What others may have planted


@pytest.fixture
def shared(tmp_path):
    """A folder as /tmp is: everybody may make files in it, and nobody remove another's."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def plant_link(link: Path, target: Path) -> None:
    link.symlink_to(target)
    os.lchown(link, STRANGER, STRANGER)


@needs_root
@pytest.mark.parametrize("where", ["file", "folder", "behind a link of ours", "relative"])
def test_a_link_that_another_user_has_planted_is_not_followed(where, shared, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    db = shared / "runs.db"
    if where == "file":
        plant_link(db, theirs / "x.db")
    elif where == "folder":
        plant_link(shared / "sub", theirs)
        db = shared / "sub" / "runs.db"
    elif where == "relative":
        plant_link(db, Path("../theirs/x.db"))
    else:
        plant_link(shared / "second", theirs / "x.db")
        db = tmp_path / "runs.db"
        db.symlink_to(shared / "second")

    for opening in (open_for_writing, open_for_reading):
        with pytest.raises(StoreError, match="another user has put there"):
            opening(db)

    assert list(theirs.iterdir()) == []


@needs_root
def test_links_of_ones_own_and_of_the_folder_s_owner_are_followed(shared, tmp_path):
    (shared / "own.db").symlink_to(tmp_path / "a.db")
    open_for_writing(shared / "own.db").close()
    os.chown(shared, STRANGER, STRANGER)
    plant_link(shared / "administrator's.db", tmp_path / "b.db")
    open_for_writing(shared / "administrator's.db").close()
    shared.chmod(0o755)
    os.chown(shared, 0, 0)
    plant_link(shared / "closed.db", tmp_path / "c.db")
    open_for_writing(shared / "closed.db").close()

    assert {path.name for path in tmp_path.glob("*.db")} == {"a.db", "b.db", "c.db"}


def test_links_in_a_circle_are_told(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")

    with pytest.raises(StoreError, match="a"):
        open_for_writing(tmp_path / "a" / "runs.db")


@needs_root
def test_a_folder_for_run_files_that_another_user_has_planted_is_neither_written_nor_read(shared):
    db = shared / "runs.db"
    planted = Path(f"{db}.d")
    planted.mkdir()
    store_run(planted / "evil.node.db", a_run("evil"))
    assert run_folder(str(db)) == planted and run_files(str(db))[0].parent == planted
    os.chown(planted, STRANGER, STRANGER)

    assert run_folder(str(db)) is None
    assert [file for file in run_files(str(db)) if file.parent == planted] == []
    assert tracker.runs(db=db) == []


@needs_root
def test_settings_that_another_user_has_planted_above_are_not_taken(shared):
    for name, text in (("tracker.toml", "pue = 3.0\n"), ("pyproject.toml", "[tool.tracker]\npue = 2.0\n")):
        (shared / name).write_text(text)
        os.chown(shared / name, STRANGER, STRANGER)
    here = shared / "mine"
    here.mkdir()

    found = resolve({}, environ={}, cwd=here, user_config=here / "none.toml")

    assert found.pue == 1.0 and len(found.problems) == 2
    assert all("another user has put it there" in problem for problem in found.problems)
    os.chown(shared / "tracker.toml", 0, 0)
    assert resolve({}, environ={}, cwd=here, user_config=here / "none.toml").pue == 3.0


@pytest.mark.parametrize("end", ["-wal", "-journal", "-shm"])
@pytest.mark.parametrize("kind", ["link", "dangling", "hard link"])
def test_nothing_is_written_through_a_link_in_place_of_a_journal(end, kind, tmp_path):
    db, victim = tmp_path / "runs.db", tmp_path / "victim"
    if kind != "dangling":
        victim.write_text("of the victim's")
    if kind == "hard link":
        Path(f"{db}{end}").hardlink_to(victim)
    else:
        Path(f"{db}{end}").symlink_to(victim)

    with contextlib.suppress(StoreError):
        store_run(db, a_run("mine"))

    if kind == "hard link":  # which a kernel with fs.protected_hardlinks lets nobody make of another's file
        return
    assert not victim.exists() if kind == "dangling" else victim.read_text() == "of the victim's"


@pytest.fixture
def measured(standin_nvml, powercap_tree, tmp_path, monkeypatch):
    """One GPU, and places of our own for everything."""
    standin_nvml.plug(Gpu(power=(Const(100_000),)), epoch_us=boottime_us())
    monkeypatch.delenv("STANDIN_CLOCK")
    monkeypatch.setenv("LD_LIBRARY_PATH", standin_nvml.env["LD_LIBRARY_PATH"])
    for name in [name for name in os.environ if name.startswith("TRACKER_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "TMPDIR"))
    monkeypatch.setenv("TRACKER_SYSFS", str(powercap_tree.sysfs))
    monkeypatch.setenv("TRACKER_ZONE", "FR")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_in_a_run_file_s_place_a_planted_file_is_left_as_it_is_and_the_next_place_taken(measured, monkeypatch, caplog):
    """The names of run files can be foreseen where the run's id is given."""
    db, victim = measured / "place" / "runs.db", measured / "victim"
    db.mkdir(parents=True)  # a folder: cannot be the database
    victim.write_text("of the victim's" * 1000)
    host = re.sub(r"[^A-Za-z0-9._-]", "_", os.uname().nodename)
    beside = Path(f"{db}.d")
    beside.mkdir()
    (beside / f"known.{host}.db").hardlink_to(victim)
    state = own_folder(str(db))
    assert state.is_relative_to(measured / "XDG_STATE_HOME")
    state.mkdir(parents=True)
    for name in ("known", "again-known"):
        (state / f"{name}.{host}.db").symlink_to(victim)
    monkeypatch.setenv("TRACKER_RUN_ID", "known")

    with tracker.track("x", db=db) as live:
        pass

    assert victim.read_text() == "of the victim's" * 1000
    (kept,) = (measured / "TMPDIR").glob("tracker-*/known.*.db")
    assert tracker.get("known", db=kept).id == live.id
    assert kept.stat().st_mode & 0o777 == 0o600 and kept.parent.stat().st_mode & 0o777 == 0o700
    assert sum(str(kept) in message for message in caplog.messages) == 1


def test_whatever_is_made_is_the_user_s_alone_whatever_the_umask(measured):
    umask = os.umask(0)
    try:
        seat = Seat(private_folder(), "run")
        seat.announce("all")
        seat.take()
        (measured / "is-a-folder").mkdir()
        with tracker.track("x"), tracker.track("y", db=measured / "is-a-folder"):
            made = [path for path in measured.rglob("*") if "standin" not in path.parts]
            modes = {path: path.lstat().st_mode & 0o777 for path in made}
    finally:
        os.umask(umask)
        seat.leave()

    ours = {p: mode for p, mode in modes.items() if re.search(r"\.(db(-\w+)?|lock|view)$|tracker$|runs$|\.d$", p.name)}
    assert {p.suffix for p in ours} >= {".db", ".db-wal", ".db-shm", ".lock", ".view", ".d"}
    assert {str(path): oct(mode) for path, mode in ours.items() if mode not in (0o700, 0o600)} == {}


# Secrets

CANARY = "canary-0123456789abcdef"


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        (f"--token={CANARY}", "--token=***"),
        (f"API_KEY={CANARY}", "API_KEY=***"),
        (f"postgresql://me:{CANARY}@db/x", "postgresql://me:***@db/x"),
        (f"postgresql://me:p@{CANARY}@db/x", "postgresql://me:***@db/x"),
        (f"postgresql://me:a/{CANARY}@db/x", "postgresql://me:***@db/x"),
        (f"postgresql://me@db/x?sslpassword={CANARY}&a=b", "postgresql://me@db/x?sslpassword=***&a=b"),
        (f"https://{CANARY}@git.example/x", "https://***@git.example/x"),
        (f"https://files.example/x?X-Token={CANARY}", "https://files.example/x?X-Token=***"),
        (f"--db=https://me:{CANARY}@host/", "--db=https://me:***@host/"),
        (f"Authorization: Bearer {CANARY}", "Authorization: ***"),
        (f"X-Api-Key:{CANARY}", "X-Api-Key:***"),
        (CANARY, MASK),
        (f"--wandb={CANARY}", f"--wandb={MASK}"),
        ("--lr=0.1", "--lr=0.1"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("config:latest", "config:latest"),
    ],
)
def test_a_command_line_is_kept_without_its_secrets(argument, shown):
    environ = {"WANDB_API_KEY": CANARY}

    assert masked_argv(["train.py", argument], environ) == ["train.py", shown]


def test_the_argument_after_an_option_for_a_secret_is_one():
    assert masked_argv(["x", "--api-key", "short", "--lr", "1"], {}) == ["x", "--api-key", MASK, "--lr", "1"]
    assert masked_argv(["x", "--api-key", "--lr", "1"], {}) == ["x", "--api-key", "--lr", "1"]


LETTERS = "abcXYZ0189_-/+=:@.?&%ü"


@settings(max_examples=60)
@given(st.text(LETTERS, min_size=8, max_size=20), st.text(LETTERS, max_size=9), st.text(LETTERS, max_size=9))
def test_no_value_of_a_secret_variable_is_in_any_argument(secret, before, after):
    (shown,) = masked_argv([before + secret + after], {"MY_SECRET": secret})

    assert secret not in shown


@settings(max_examples=60)
@given(st.text(LETTERS, min_size=1, max_size=20))
def test_no_password_of_a_url_is_shown(password):
    assert masked_url(f"postgresql://me:{password}@db.example/x") == "postgresql://me:***@db.example/x"


EVERYTHING = """
import logging, sys, time, traceback
logging.basicConfig(level=logging.DEBUG)
import tracker
from click.testing import CliRunner
from tracker.cli import cli
db = sys.argv[1] or None
live = tracker.track("x", db=db).start()
time.sleep(1.3)
run = live.stop()
print(run.to_dict(), run.summary(), repr(run))
try:
    raise ValueError("of the program's own")
except ValueError:
    try:
        tracker.runs(db=db)
    except tracker.TrackerError:
        traceback.print_exc()
for command in ("doctor", "doctor --json", "show last --json", "db info"):
    print(CliRunner().invoke(cli, [*command.split(), *(["--db", db] if db else [])]).output)
"""


@pytest.mark.parametrize("failing", ["nobody there", "an answer that repeats it", "sent elsewhere"])
def test_no_token_is_in_database_log_error_or_record_whatever_fails(failing, measured, grid, standin_nvml):
    token = f"{CANARY}-grid"
    replies = {
        "nobody there": Reply(),
        "an answer that repeats it": Reply({"token": token, "carbonIntensity": token}),
        "sent elsewhere": Reply(status=302, headers={"Location": f"http://127.0.0.1:9/?auth={token}"}),
    }
    grid.plays(replies[failing])
    # A database server that takes nothing, or whose driver is missing.
    db = f"postgresql://me:{CANARY}-db@127.0.0.1:9/x?sslpassword={CANARY}-tls" if failing == "nobody there" else ""
    environ = {
        **os.environ,
        **{name: value for name, value in standin_nvml.env.items() if name != "STANDIN_CLOCK"},
        "PYTHONPATH": str(ROOT),
        "TRACKER_ELECTRICITYMAPS_TOKEN": token,
        "TRACKER_ELECTRICITYMAPS_URL": "http://127.0.0.1:9" if failing == "nobody there" else grid.url,
        "TRACKER_WATTTIME_TOKEN": f"me:{CANARY}-watttime",
        "WANDB_API_KEY": f"{CANARY}-wandb",
    }
    arguments = [db, "--token", f"{CANARY}-argv", f"{CANARY}-wandb", f"http://u:{CANARY}-url@h/"]

    command = [sys.executable, "-c", EVERYTHING, *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 0 and "'status': 'finished'" in done.stdout and '"settings"' in done.stdout
    if failing != "nobody there":
        assert grid.asked and grid.asked[0].headers["auth-token"] == token
    for line in (done.stdout + done.stderr).splitlines():
        assert CANARY not in line
    written = [path for path in measured.rglob("*") if path.is_file() and "standin" not in path.parts]
    assert any(b"SQLite format 3" in path.read_bytes() for path in written)
    for path in written:
        assert CANARY.encode() not in path.read_bytes(), path


# What is read is bounded


@pytest.mark.parametrize("kind", ["one line without end", "packed", "packed into comments", "a device"])
def test_a_trace_takes_no_more_memory_than_its_rows(kind, tmp_path, monkeypatch):
    trace = tmp_path / "trace.csv.gz"
    if kind == "a device":
        trace = Path("/dev/zero")
    elif kind == "one line without end":
        trace.write_bytes(b"t_s,key,power_w\n0,a," + b"1" * 30_000_000)
    elif kind == "packed":
        trace.write_bytes(gzip.compress(b"t_s,key,power_w\n0,a," + bytes(30_000_000)))
    else:
        monkeypatch.setattr(replay, "MAX_TRACE_CHARS", 100_000)
        trace.write_bytes(gzip.compress(b"#\n" * 10_000_000))

    tracemalloc.start()
    try:
        with pytest.raises(TraceError, match="longer than"):
            ReplaySensor(trace)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_file_of_intensities_has_a_largest_size_though_it_tells_none(monkeypatch):
    monkeypatch.setattr(ownfile, "_MAX_BYTES", 100_000)

    with pytest.raises(IntensityFileError, match="larger than"):
        ownfile._read(Path("/dev/zero"))


def test_settings_nested_without_end_are_a_problem_and_no_more(tmp_path):
    (tmp_path / "tracker.toml").write_text(f"zone = {'[' * 100_000}")

    found = resolve({}, environ={}, cwd=tmp_path, user_config=tmp_path / "none")

    assert len(found.problems) == 1 and "tracker.toml" in found.problems[0]


def test_a_stranger_s_schema_calls_nothing_that_a_program_has_registered(tmp_path):
    database = open_for_writing(tmp_path / "runs.db")
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA trusted_schema").scalar() in (0, None)
    with open_for_reading(tmp_path / "runs.db").engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA trusted_schema").scalar() in (0, None)


# SECURITY.md itself


def test_every_test_that_security_md_names_is_there():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", text)

    assert len(named) >= 25
    for file, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name
