"""What a kill, a full disk and a flipped bit may not do to a checkpoint."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from tightrein.errors import TightreinError
from tightrein.runs import Run, checkpoints

FOREVER = """
import sys
import numpy as np
from pathlib import Path
from tightrein.runs import Run

run = Run.create(Path(sys.argv[1]), {"method": "spo"}, resume=len(sys.argv) > 2)
start = run.latest().step if run.latest() else 0
print("ready", flush=True)
for step in range(start + 1, 10**6):
    run.log(step, value=float(step))
    run.checkpoint(step, {"a": np.full(50_000, step), "b": np.float32(step)}, {"step": step})
"""


def arrays(step, size=1000):
    return {"weights": np.full(size, float(step)), "key": np.arange(4, dtype=np.uint32), "count": np.array(step)}


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", {"method": "spo"}, resume=False)


def names(run):
    return sorted(path.name for path in (run.folder / "checkpoints").iterdir())


def test_what_is_saved_comes_back(run):
    saved = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(10)[::3],
        "scalar": np.array(7, dtype=np.int64),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "flags": np.array([True, False]),
        "big_endian": np.arange(3, dtype=">f8"),
        "half": np.ones(2, dtype=np.float16),
    }
    run.checkpoint(3, saved, {"generator": {"state": 2**127 + 1}, "rate": 0.1, "path": None})
    found = run.latest()
    assert found.step == 3
    assert found.extra == {"generator": {"state": 2**127 + 1}, "rate": 0.1, "path": None}
    assert found.arrays.keys() == saved.keys()
    for name, array in saved.items():
        assert found.arrays[name].shape == array.shape
        np.testing.assert_array_equal(found.arrays[name], array)


def test_no_arrays_are_a_checkpoint_too(run):
    run.checkpoint(1, {}, {"a": 1})
    assert run.latest().arrays == {}


def test_the_last_two_are_kept(run):
    assert run.latest() is None
    for step in (5, 10, 2_000_000_000):
        run.checkpoint(step, arrays(step), {})
    assert names(run) == ["step-000000010", "step-2000000000"]
    assert run.latest().step == 2_000_000_000


def test_the_same_step_again_replaces(run):
    run.checkpoint(5, arrays(1), {"turn": 1})
    run.checkpoint(5, arrays(2), {"turn": 2})
    assert names(run) == ["step-000000005"]
    assert run.latest().extra == {"turn": 2}


def test_checksums_are_in_the_usual_form(run):
    run.checkpoint(5, arrays(5), {})
    folder = run.folder / "checkpoints" / "step-000000005"
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_dtype_that_cannot_be_saved_is_named(run):
    with pytest.raises(TightreinError, match=r"'bad' has dtype complex128"):
        run.checkpoint(1, {"bad": np.ones(2, dtype=complex)}, {})
    assert names(run) == []


@pytest.mark.parametrize("file", ["arrays.safetensors", "extra.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(run, file, damage, capsys):
    for step in (1, 2):
        run.checkpoint(step, arrays(step), {"step": step})
    path = run.folder / "checkpoints" / "step-000000002" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    again = Run.create(run.folder, {"method": "spo"}, resume=True)
    assert again.latest().step == 1
    assert "checkpoint 2 is damaged" in capsys.readouterr().err
    again.checkpoint(2, arrays(2), {"step": 2})
    assert again.latest().extra == {"step": 2}


def test_what_a_kill_left_is_tidied(run):
    run.checkpoint(1, arrays(1), {})
    folder = run.folder / "checkpoints"
    (folder / "step-000000002.writing").mkdir()
    os.rename(folder / "step-000000001", folder / "step-000000001.replaced")  # killed between two renames
    again = Run.create(run.folder, {"method": "spo"}, resume=True)
    assert names(again) == ["step-000000001"]
    assert again.latest().step == 1


def test_kill_at_any_moment(tmp_path):
    """Killed over and over while it does nothing but checkpoint: always a whole one, always going on."""
    folder, moments = tmp_path / "run", np.random.default_rng(0).uniform(0.005, 0.12, 8)
    reached = 0
    for turn, moment in enumerate(moments):
        command = [sys.executable, "-c", FOREVER, str(folder), *(["resume"] if turn else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(moment)
            process.kill()
        run = Run.create(folder, {"method": "spo"}, resume=True)
        found = run.latest()
        step = found.step if found else 0
        assert step >= reached
        if found:
            assert found.extra == {"step": step}
            np.testing.assert_array_equal(found.arrays["a"], np.full(50_000, step))
        assert [line["step"] for line in checkpoint_lines(run)] == list(range(1, step + 1))
        assert all(name.startswith("step-") and "." not in name for name in names(run))
        reached = step
        del run  # it keeps other processes out
    assert reached > 0


def checkpoint_lines(run):
    from tightrein.runs import metrics

    return metrics.read(run.folder / "metrics.jsonl")


def test_sigterm_to_the_flag_and_a_checkpoint(tmp_path):
    code = """
        import sys, time
        from pathlib import Path
        from tightrein.runs import Interrupt, Run
        run = Run.create(Path(sys.argv[1]), {}, resume=False)
        with Interrupt() as stop:
            print("ready", flush=True)
            while not stop.requested:
                time.sleep(0.005)
        run.checkpoint(7, {}, {})
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert Run.create(tmp_path / "run", {}, resume=True).latest().step == 7


@pytest.fixture
def small_files():
    """No file of this process may grow beyond 200 kB: a write to it fails half way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_refusal(run, save):
    with pytest.raises(TightreinError) as caught:
        save()
    text = str(caught.value)
    assert str(run.folder / "checkpoints") in text
    assert "checkpoint 1 is intact" in text
    assert "8.0 MB" in text
    assert "--resume" in caught.value.remedy
    assert names(run) == ["step-000000001"]
    np.testing.assert_array_equal(run.latest().arrays["weights"], np.full(1000, 1.0))


def test_a_write_that_fails_half_way(run, small_files):
    run.checkpoint(1, arrays(1), {})
    check_refusal(run, lambda: run.checkpoint(2, arrays(2, size=1_000_000), {}))
    run.checkpoint(3, arrays(3), {})
    assert run.latest().step == 3


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        run = Run.create(disk / "run", {"method": "spo"}, resume=False)
        run.checkpoint(1, arrays(1), {})
        check_refusal(run, lambda: run.checkpoint(2, arrays(2, size=1_000_000), {}))
        (disk / "ballast").write_bytes(bytes(300_000))
        fill_with_metrics(run)
        with pytest.raises(TightreinError, match="No space left on device"):
            Run.create(run.folder, {"method": "spo"}, resume=True)
        (disk / "ballast").unlink()
        again = Run.create(run.folder, {"method": "spo"}, resume=True)
        assert again.latest().step == 1
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def log_much(run):
    for _ in range(10_000):
        run.log(1, text="x" * 1000)


def fill_with_metrics(run):
    """Log until the disk is full: a clear error, and every line in the file whole."""
    with pytest.raises(TightreinError, match="could not be written: No space left on device"):
        log_much(run)
    lines = (run.folder / "metrics.jsonl").read_text()
    assert lines.endswith("}\n")


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(TightreinError, match="taken could not be written"):
        Run.create(tmp_path / "taken", {}, resume=False)


def test_checkpoints_of_no_folder():
    assert checkpoints.steps(Path("does-not-exist")) == []
