"""The command, as its user types it: in processes of its own, on the stand-in hardware."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from standin.nvml import Const, Gpu

from tracker import __version__, track
from tracker.cli import cli, main
from tracker.machine import boottime_us

PYTHON = sys.executable


@pytest.fixture(autouse=True)
def hardware(standin_nvml, powercap_tree, tmp_path, monkeypatch):
    standin_nvml.plug(Gpu(power=(Const(100_000),)), epoch_us=boottime_us())
    powercap_tree.add("intel-rapl:0", "package-0", 5_000_000)
    for name in [name for name in os.environ if name.startswith("TRACKER_")]:
        monkeypatch.delenv(name)
    for name, value in standin_nvml.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("STANDIN_CLOCK", raising=False)
    monkeypatch.setenv("TRACKER_SYSFS", str(powercap_tree.sysfs))
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("TRACKER_ZONE", "FR")
    monkeypatch.chdir(tmp_path)


def tracker(*arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, "-m", "tracker", *arguments], capture_output=True, text=True, timeout=60, check=False, **kwargs
    )


def said(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command in this process: what needs no process of its own needs no second."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return (ended.value.code, *capsys.readouterr())


def runs(*arguments: str) -> list[dict]:
    done = CliRunner().invoke(cli, ["runs", "--json", *arguments])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if done.stdout else []


def test_a_command_keeps_its_output_and_a_summary_goes_to_standard_error():
    code = "import sys, time; print('out', sys.argv[1:]); print('err', file=sys.stderr); time.sleep(0.3)"

    done = tracker(
        "run", "--name", "n", "--project", "p", "--tag", "a=b", "--", PYTHON, "-c", code, "--name", "-x", "é"
    )

    assert (done.returncode, done.stdout) == (0, "out ['--name', '-x', 'é']\n")
    assert done.stderr.startswith("err\n")
    summary = done.stderr.removeprefix("err\n")
    assert "counter" in summary and "100 %" in summary and "France" in summary
    assert max(map(len, summary.splitlines())) <= 80
    (run,) = runs()
    assert (run["name"], run["project"], run["tags"], run["status"]) == ("n", "p", {"a": "b"}, "finished")
    (gpu,) = [d for d in run["devices"] if d["kind"] == "gpu"]
    assert gpu["energy_j"] == pytest.approx(100 * run["duration_s"], abs=3)


def test_the_exit_code_is_the_commands_own_even_where_the_summary_cannot_be_read():
    """The database is written over, in its place, just before the end: what SQLite then reads is damaged."""
    code = (
        "import os, sys, time; time.sleep(0.3); open(os.environ['TRACKER_DB'], 'r+b').write(b'x' * 9000); sys.exit(3)"
    )

    done = tracker("run", "--", PYTHON, "-c", code)

    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr


def test_standard_input_reaches_the_command():
    assert tracker("run", "--", "cat", input="some text\n").stdout == "some text\n"


@pytest.mark.parametrize(
    ("code", "returncode", "status"),
    [
        ("exit 3", 3, "failed"),
        ("false", 1, "failed"),
        ("kill -KILL $$", 128 + 9, "interrupted"),
        ("kill -TERM $$", 128 + 15, "interrupted"),
    ],
)
def test_the_exit_code_is_the_commands_own(code, returncode, status):
    assert tracker("run", "--", "sh", "-c", code).returncode == returncode
    assert runs()[0]["status"] == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_command_and_its_handlers(number):
    code = f"""
import signal, sys, time
def handler(number, frame):
    print("got", number, flush=True)
    sys.exit(7)
signal.signal({int(number)}, handler)
print("up", flush=True)
time.sleep(30)
"""
    child = subprocess.Popen(
        [PYTHON, "-m", "tracker", "run", "--", PYTHON, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "up\n"
    child.send_signal(number)
    out, _ = child.communicate(timeout=60)  # a busy machine may take long to write the end of a run

    assert (out, child.returncode) == (f"got {int(number)}\n", 7)
    assert runs()[0]["status"] == "failed"


def test_a_terminal_stays_a_terminal_and_its_ctrl_c_is_felt_once():
    code = """
import sys, time
try:
    print("tty", sys.stdin.isatty(), sys.stdout.isatty(), flush=True)
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted once", flush=True)
    time.sleep(0.5)
    sys.exit(5)
"""
    pid, master = pty.fork()
    if pid == 0:
        os.execv(PYTHON, [PYTHON, "-m", "tracker", "run", "--", PYTHON, "-c", code])
    seen = b""
    deadline = time.monotonic() + 30
    sent = False
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                data = os.read(master, 4096)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            seen += data
        if b"tty True True" in seen and not sent:
            os.write(master, b"\x03")
            sent = True
    _, status = os.waitpid(pid, 0)
    os.close(master)

    assert os.waitstatus_to_exitcode(status) == 5, seen
    assert seen.count(b"interrupted once") == 1 and b"Traceback" not in seen


def test_what_cannot_be_run_says_so_as_a_shell_would(tmp_path):
    (tmp_path / "plain").write_text("no program")

    missing, plain = tracker("run", "--", "no-such-command"), tracker("run", "--", "./plain")

    assert (missing.returncode, plain.returncode) == (127, 126)
    assert "no-such-command: command not found" in missing.stderr
    assert "plain: cannot be executed" in plain.stderr
    assert runs() == []


def test_runs_that_the_command_tracks_are_its_parts_in_the_same_database(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import tracker, time\nwith tracker.track('part'):\n    time.sleep(0.2)\n")

    done = tracker("run", "--db", "other.db", "--project", "p", "--", PYTHON, str(script))

    assert done.returncode == 0, done.stderr
    found = {run["name"]: run for run in runs("--db", "other.db")}
    part, whole = found["part"], found[Path(PYTHON).name]
    assert part["parent_id"] == whole["id"] and whole["parent_id"] is None
    assert part["project"] == "p"


def test_a_json_summary_has_the_keys_of_to_dict():
    done = tracker("run", "--json", "--", "true")

    told = json.loads(done.stderr)
    assert told == runs()[0] == json.loads(tracker("show", "last", "--json").stdout)
    assert {"energy_j", "emissions_g", "coverage", "not_measured", "devices", "intensity"} <= told.keys()


def test_the_list_is_newest_first_and_takes_filters():
    for name, project in (("a", "p"), ("b", "q"), ("c", "p")):
        with track(name, project=project):
            pass
    tracker("run", "--name", "d", "--", "false")

    def names(*arguments):
        return [run["name"] for run in runs(*arguments)]

    assert names() == ["d", "c", "b", "a"]
    assert names("--project", "p") == ["c", "a"]
    assert names("--status", "failed") == ["d"]
    assert names("--limit", "2") == ["d", "c"]
    assert names("--since", "1h") == ["d", "c", "b", "a"]
    assert names("--since", "2999-01-01") == [] == names("--until", "2001-01-01")
    table = tracker("runs").stdout
    assert max(map(len, table.splitlines())) <= 80
    assert re.search(r"\bd\b.*\bfailed\b", table)


def test_a_run_is_shown_by_the_beginning_of_its_id(capsys):
    with track("shown") as live:
        pass

    by_prefix, last = said(capsys, "show", live.id[:5]), said(capsys, "show", "last")

    assert by_prefix == last and last[0] == 0 and "shown" in last[1]
    code, out, err = said(capsys, "show", "nope")
    assert code == 1 and "nope" in err and out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--zone", "Atlantis", "--", "true"),
        ("run", "--pue", "0.2", "--", "true"),
        ("run", "--interval", "fast", "--", "true"),
        ("run", "--replay", "nothing.csv", "--", "true"),
        ("run", "--tag", "novalue", "--", "true"),
        ("run",),
        ("runs", "--since", "yesterday-ish"),
        ("runs", "--limit", "0"),
        ("runs", "--status", "great"),
        ("show",),
        ("frobnicate",),
    ],
)
def test_wrong_usage_is_refused_with_2_before_anything_runs(arguments, tmp_path, capsys):
    code, out, err = said(capsys, *arguments)

    assert code == 2 and out == ""
    assert "Traceback" not in err
    assert arguments == ("show",) or any(str(word) in err for word in arguments if not word.startswith("-"))
    assert not (tmp_path / "runs.db").exists()


def test_a_wrong_variable_is_refused_by_the_command(capsys, monkeypatch):
    monkeypatch.setenv("TRACKER_PUE", "half")

    code, _, err = said(capsys, "run", "--", "true")

    assert code == 2 and "TRACKER_PUE" in err and "half" in err


def test_a_database_that_is_none_is_an_error_to_read_and_no_harm_to_run(tmp_path):
    (tmp_path / "runs.db").write_text("garbage " * 100)

    read, run = tracker("runs"), tracker("run", "--", PYTHON, "-c", "print(1)")

    assert read.returncode == 1 and "not a database" in read.stderr and "Traceback" not in read.stderr
    assert (run.returncode, run.stdout) == (0, "1\n") and "is kept in" in run.stderr


def test_any_name_is_listed_under_a_plain_c_locale():
    environ = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for name in ("ünï\ncode 中文 🙂", "'; DROP TABLE runs;--"):
        with track(name):
            pass

    for arguments in (("runs",), ("show", "last"), ("runs", "--json")):
        done = tracker(*arguments, env=environ)
        assert done.returncode == 0 and "Traceback" not in done.stderr
    assert len(runs()) == 2


def test_disabled_runs_only_the_command(tmp_path):
    done = tracker("run", "--", PYTHON, "-c", "print(1)", env={**os.environ, "TRACKER_DISABLED": "1"})

    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    assert not (tmp_path / "runs.db").exists()


def test_help_and_version_teach(capsys):
    for arguments in (("--help",), ("run", "--help"), ("runs", "--help"), ("show", "-h")):
        code, out, _ = said(capsys, *arguments)
        assert code == 0 and "Usage: tracker" in out
        assert max(map(len, out.splitlines())) <= 80
    assert "tracker run -- python train.py" in tracker("--help").stdout
    assert __version__ in said(capsys, "--version")[1]


def test_nothing_heavy_is_imported_with_the_package():
    code = (
        "import sys, tracker; heavy = {'numpy', 'sqlalchemy', 'alembic', 'requests', 'rich', 'click', 'pynvml'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
