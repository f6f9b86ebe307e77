"""The doctor as a user calls it: on this machine, on runs that were damaged, on bad machines."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from momentum_gpt.core import ownership
from momentum_gpt.core.manifest import read_checkpoint_manifest
from momentum_gpt.diagnosis import machine, outside, run_folder, storage
from momentum_gpt.diagnosis.findings import BAD, OK, WARNING, Finding, check_all, report
from tests.conftest import SMOKE, command


@pytest.fixture(scope="module")
def trained(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps with checkpoints at 10 and 20."""
    runs = tmp_path_factory.mktemp("runs")
    options = ["name=a", f"data={data_folder}", f"runs={runs}", *SMOKE]
    done = command("momentum_gpt.train", *options)
    assert done.code == 0, done.err
    return runs / "a"


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "a"))


def states(findings: list[Finding]) -> list[str]:
    return [finding.state for finding in findings]


def texts(findings: list[Finding]) -> str:
    return "\n".join(f"{finding.text}: {finding.remedy}" for finding in findings)


def test_a_healthy_run_on_this_machine(trained: Path) -> None:
    began = time.monotonic()
    done = command("momentum_gpt.doctor", f"run={trained}")
    assert time.monotonic() - began < 60  # 10 s, on a machine that does nothing else
    assert done.code == 0, done.out + done.err
    *lines, empty, verdict = done.out.splitlines()
    assert (empty, verdict.split(":")[0]) == ("", "fit to train")
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    assert not list(trained.glob("**/.doctor_*")) + list(trained.parent.glob(".doctor_*"))


def test_a_bad_finding_is_exit_code_1_and_names_the_remedy(run_dir: Path) -> None:
    (run_dir / "config.yaml").write_text("name: ${oc.env:HOME}\n")
    done = command("momentum_gpt.doctor", f"run={run_dir}")
    assert done.code == 1
    assert "Traceback" not in done.out + done.err
    assert "not fit to train" in done.out
    bad = [line for line in done.out.splitlines() if line.startswith("bad")]
    assert any("name has the interpolation" in line and "put back" in line for line in bad)


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    done = command("momentum_gpt.doctor", f"run={tmp_path}")
    assert (done.code, len(done.err.splitlines())) == (2, 1)


def test_ranks_of_two_real_processes_add_a_tensor() -> None:
    found = outside.Probe().check()
    assert BAD not in states(found), texts(found)
    assert "2 ranks added a tensor" in found[0].text


def test_ranks_that_cannot_meet_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no_such_interface")
    found = outside.Probe().check()
    assert found[0].state == BAD
    assert "GLOO_SOCKET_IFNAME" in found[0].remedy


# ---------------------------------------------------------------- the run's folder


def test_checkpoints_of_a_healthy_run(trained: Path) -> None:
    (found,) = run_folder.checkpoints(trained)
    assert found.state == OK
    assert "step_00000020 is good" in found.text
    assert "complete" in found.text


def test_a_damaged_checkpoint_is_named_and_the_steps_left_are_counted(run_dir: Path) -> None:
    newest = run_dir / "checkpoints" / "step_00000020"
    weights = newest / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    found = run_folder.checkpoints(run_dir)
    assert states(found) == [WARNING, OK, WARNING]
    assert "step_00000020 is damaged (model/model.safetensors" in found[0].text
    assert "step_00000010 is good, all bytes as written; 10 steps are left" in found[1].text
    assert "latest does not name step_00000010" in found[2].text


def test_a_run_without_a_good_checkpoint_is_bad(run_dir: Path) -> None:
    for manifest in run_dir.glob("checkpoints/step_*/manifest.json"):
        manifest.write_text("[]")
    found = run_folder.checkpoints(run_dir)
    assert states(found) == [WARNING, WARNING, BAD]


def test_what_a_kill_has_left_is_named_but_not_while_the_run_is_trained(run_dir: Path) -> None:
    (run_dir / "checkpoints" / ".step_00000030.partial").mkdir()
    assert "step_00000030" in texts(run_folder.left_overs(run_dir))
    with ownership.own(run_dir):
        assert run_folder.left_overs(run_dir) == []


def test_who_trains_the_run_is_named(run_dir: Path) -> None:
    assert states(run_folder.lock(run_dir)) == [OK]
    hold = "import sys, pathlib; from momentum_gpt.core import ownership\n"
    hold += "held = ownership.own(pathlib.Path(sys.argv[1])); print('held', flush=True)\n"
    hold += "sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        (found,) = run_folder.lock(run_dir)
        owner.kill()
    assert found.state == WARNING
    assert f"process {owner.pid} on " in found.text


def test_unreadable_lines_are_named(run_dir: Path) -> None:
    assert states(run_folder.metrics(run_dir)) == [OK]
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:10]
    lines[3] = "[" * 100_000
    path.write_text("\n".join(lines) + '\n{"step": 21, "cut')  # the last was cut by a kill
    (found,) = run_folder.metrics(run_dir)
    assert found.state == WARNING
    assert "2 unreadable lines (2, 4)" in found.text


def test_the_data_are_those_of_the_checkpoint(run_dir: Path, data_folder: Path) -> None:
    (found,) = run_folder.data(run_dir)
    assert (found.state, "those of step_00000020" in found.text) == (OK, True)

    folder = run_dir / "checkpoints" / "step_00000020"
    manifest = read_checkpoint_manifest(folder)
    vars(manifest)["data_sha256"] = "0" * 64
    manifest.write(folder)
    (found,) = run_folder.data(run_dir)
    assert (found.state, "other tokens" in found.text) == (BAD, True)

    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace(str(data_folder), "/nowhere"))
    assert states(run_folder.data(run_dir)) == [BAD]


def test_too_little_room_for_the_next_checkpoints_is_bad(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert states(run_folder.room(run_dir)) == [OK]
    size = sum(
        file.stat().st_size
        for file in (run_dir / "checkpoints" / "step_00000020").rglob("*")
        if file.is_file()
    )
    little = shutil._ntuple_diskusage(size * 9, size * 9, size - 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: little)
    assert states(run_folder.room(run_dir)) == [BAD]


def test_the_size_of_the_first_checkpoint_is_estimated(run_dir: Path) -> None:
    (measured,) = run_folder.room(run_dir)
    shutil.rmtree(run_dir / "checkpoints")
    (estimated,) = run_folder.room(run_dir)
    sizes = [float(found.text.split()[6]) for found in (measured, estimated)]  # MB
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_how_the_run_ended(run_dir: Path) -> None:
    (run_dir / "outcome.json").unlink(missing_ok=True)
    assert run_folder.outcome(run_dir) == []
    path = run_dir / "outcome.json"
    path.write_text(json.dumps({"exit_code": 1, "step": 3, "message": "a rank froze", "time": ""}))
    (found,) = run_folder.outcome(run_dir)
    assert (found.state, "exit code 1" in found.text) == (WARNING, True)
    assert found.remedy == "a rank froze"


# ---------------------------------------------------------------- the machine


def test_a_library_out_of_its_range_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(machine.versions()) == [OK]
    needed = ["torch>=2.11,<3", "deepspeed>=99", "no-such-library>=1", "x>1; extra == 'test'"]
    monkeypatch.setattr(machine, "declared", lambda: (">=3.11", needed))
    found = machine.versions()
    assert states(found) == [BAD, BAD]
    assert "pip install 'deepspeed>=99'" in texts(found)
    assert "no-such-library (missing)" in texts(found)


def test_a_clock_before_the_installation_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(machine.clock()) == [OK]
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert states(machine.clock()) == [BAD]


def test_a_file_system_with_another_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.skew(tmp_path) == []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    (found,) = storage.skew(tmp_path)
    assert "-3600 s off" in found.text or "-3599 s off" in found.text


def test_few_open_files(tmp_path: Path) -> None:
    program = "from momentum_gpt.diagnosis import machine; print(machine.limits()[0].remedy)"
    shell = f"ulimit -Sn 256; exec {sys.executable} -c '{program}'"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ulimit -n ")


def test_the_disk_is_written_and_locked(tmp_path: Path) -> None:
    assert states(storage.disk(tmp_path / "runs" / "not_made_yet"))[0] in (OK, WARNING)
    assert storage.lock_excludes(tmp_path)
    assert list(tmp_path.iterdir()) == []
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert storage.file_system(tmp_path)[:3] == kind[:3]


def test_locks_that_do_not_exclude_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # as some network file systems do
    assert states(storage.locks(tmp_path)) == [BAD]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("is_logged_in", [True, False])
def test_a_dashboard_that_does_not_answer(
    silent_server: str, is_logged_in: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40 if is_logged_in else "")
    program = "from momentum_gpt.diagnosis.outside import dashboard; print(dashboard()[0])"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert time.monotonic() - began < 30
    assert "state='warning'" in done.stdout, done.stderr
    assert ("does not answer within 3 s" in done.stdout) == is_logged_in


# ---------------------------------------------------------------- the report


def test_checks_that_crash_or_hang_leave_the_report_whole() -> None:
    def crash() -> list[Finding]:
        raise RuntimeError("two\nlines")

    release = threading.Event()

    def hang() -> list[Finding]:
        release.wait()
        return []

    checks = {"crash": crash, "hang": hang, "fine": lambda: [Finding(OK, "all is well", "go on")]}
    began = time.monotonic()
    found, have_ended = check_all(checks, 0.5)
    release.set()
    assert time.monotonic() - began < 5
    assert not have_ended
    assert report(found).splitlines() == [
        "warning  crash could not be checked (RuntimeError: two lines)",
        "warning  hang  not finished within 0.5 s, so nothing is known of it",
        "ok       fine  all is well: go on",
    ]
