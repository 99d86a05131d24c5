"""A bench as a person drives it: done once, done on after a kill, and done to the end whatever fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from blocklora.bench import run as bench_run
from blocklora.bench.records import RunFailure, RunResult
from blocklora.bench.run import run_grid
from blocklora.bench.store import read_plan, read_records
from blocklora.bench.user_methods import load_methods
from blocklora.bench.work import RunOrder, WorkSettings, do_run
from blocklora.cli import app as cli
from blocklora.clip import class_features, image_features, load_clip, pixels, tokenize
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError, DataError, ModelError
from blocklora.core.resources import Resources
from blocklora.data import few_shot, load_dataset, open_image
from blocklora.methods import METHODS, Job, Task

# A job in the background of a shell ignores Ctrl-C, and its children inherit that.
CODE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from blocklora.cli.app import main; main()"
)
MINE = """
import os, signal, threading
from pathlib import Path
from blocklora.methods import Method
from blocklora.methods.adapters.settings import AdapterSettings
from blocklora.methods.frozen.zero_shot import fit as zero_shot

HERE = Path(__file__).parent

def stops(job, settings):
    if job.seed == 2 and not (HERE / "stopped").exists():
        (HERE / "stopped").touch()
        os.kill(os.getppid(), getattr(signal, os.environ["STOP_BY"], signal.SIGTERM))
        threading.Event().wait()
    return zero_shot(job, settings)

def fails(job, settings):
    if not (HERE / "mended").exists():
        print("hard luck", flush=True)
        raise RuntimeError("out of luck")
    return zero_shot(job, settings)

METHODS = {"stops": Method(stops, AdapterSettings), "fails": Method(fails, AdapterSettings)}
"""


@pytest.fixture(autouse=True)
def methods_stay() -> Iterator[None]:
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def write_grid(
    folder: Path, clip_folder: Path, photos: Path, *methods: str, seeds: str = "[1, 2, 3]"
) -> Path:
    (folder / "mine.py").write_text(MINE, encoding="utf-8")
    tables = "".join(f"[methods.{method}]\n" for method in methods)
    path = folder / "grid.toml"
    path.write_text(
        f'methods_from = "mine.py"\nmodels = ["{clip_folder.as_posix()}"]\nshots = [2]\nseeds = {seeds}\n'
        f'[data.shapes]\npath = "{photos.as_posix()}"\n{tables}[settings]\niterations = 2\ndevice = "cpu"\n',
        encoding="utf-8",
    )
    return path


def bench(*arguments: Any, stop_by: str = "SIGKILL") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "STOP_BY": stop_by}
    command = [sys.executable, "-c", CODE, "bench", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, encoding="utf-8", timeout=300
    )


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: Any
) -> tuple[int, str, str]:
    """Run ``blocklora bench`` in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["blocklora", "bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, " ".join(captured.err.split())


def test_a_second_time_does_nothing(tmp_path: Path, clip_folder: Path, photos: Path) -> None:
    grid = write_grid(tmp_path, clip_folder, photos, "zero-shot", "block-lora", seeds="[1, 2]")
    out = tmp_path / "results"
    assert run_grid(grid, out, workers=2) == {"planned": 4, "done": 4, "failed": 0, "failed_before": 0}
    content = (out / "runs.jsonl").read_bytes()
    records = read_records(out)
    assert {entry.key for entry in read_plan(out)} == set(records)
    hashes = set()
    for record in records.values():
        assert isinstance(record.outcome, RunResult)
        assert record.entry.data == "shapes"
        assert record.outcome.details["n_correct"] / record.outcome.n_test == record.outcome.accuracy
        assert record.outcome.peak_memory_bytes > 50_000_000
        assert record.settings.get("lr") == (2e-4 if record.entry.method == "block-lora" else None)
        assert record.code["version"]
        hashes.add((record.entry.seed, record.outcome.split_sha256))
    assert len(hashes) == 2  # methods of a seed saw the same images
    assert not (out / "running").exists()
    assert not (out / "workers.log").exists()
    assert run_grid(grid, out) == {"planned": 4, "done": 0, "failed": 0, "failed_before": 0}
    assert (out / "runs.jsonl").read_bytes() == content


def test_a_run_of_two_names_is_done_once(
    tmp_path: Path,
    clip_folder: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = write_grid(tmp_path, clip_folder, photos, "block-lora", seeds="[1]")
    names = "[methods.plain]\nmethod = 'block-lora'\n"
    grid.write_text(
        grid.read_text(encoding="utf-8").replace("[settings]", names + "[settings]"), encoding="utf-8"
    )
    out = tmp_path / "results"
    code, stdout, stderr = call(capsys, monkeypatch, grid, "--out", out, "--workers", 2)
    assert code == 0, stderr
    assert "plain has equal settings to block-lora" in stderr
    assert "1 to do, 1 process." in stderr
    assert "1 run done, 0 of 1 failed" in stdout
    (key,) = read_records(out)
    assert [(entry.key, entry.method) for entry in read_plan(out)] == [(key, "block-lora"), (key, "plain")]
    assert run_grid(grid, out) == {"planned": 1, "done": 0, "failed": 0, "failed_before": 0}


def test_a_file_that_changed_since_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("a\n", encoding="utf-8")
    settings = WorkSettings(Resources(1, 1024**3), (), tmp_path / "features", None)
    order = RunOrder("key", {"data": "digits"}, tmp_path / "run", {file: "0" * 64})
    with pytest.raises(ConfigError, match=r"names\.txt: changed after the bench was started"):
        do_run(settings, 0, order, 1, lambda *_: None)
    assert not (tmp_path / "run").exists()


def test_the_log_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "_LOG_BYTES", 10)
    log = tmp_path / "workers.log"
    bench_run._limit_log(log)
    with open(log, "ab") as stream:  # as a worker has it open meanwhile
        stream.write(b"0123456789")
        stream.flush()
        bench_run._limit_log(log)
        assert not (tmp_path / "workers.log.1").exists()
        stream.write(b"ab")
        stream.flush()
        bench_run._limit_log(log)
        stream.write(b"cd")
    assert (log.read_bytes(), (tmp_path / "workers.log.1").read_bytes()) == (b"cd", b"0123456789ab")


def test_a_killed_bench_goes_on_with_the_rest(
    tmp_path: Path,
    clip_folder: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = write_grid(tmp_path, clip_folder, photos, "stops")
    out = tmp_path / "results"
    killed = bench(grid, "--out", out, "--workers", 1)
    assert killed.returncode != 0
    before = (out / "runs.jsonl").read_bytes()
    assert len(read_records(out)) == 1
    code, stdout, stderr = call(capsys, monkeypatch, grid, "--out", out, "--workers", 1)
    assert code == 0
    assert "1 of 3 runs are done already; 2 to do, 1 process." in stderr
    assert f"2 runs done, 0 of 3 failed; results: {out}" in stdout
    assert (out / "runs.jsonl").read_bytes().startswith(before)
    assert len((out / "runs.jsonl").read_bytes().splitlines()) == 3
    second = next(record for record in read_records(out).values() if record.entry.seed == 2)
    assert isinstance(second.outcome, RunResult)
    assert second.outcome.resumed


def test_ctrl_c_stops_cleanly(tmp_path: Path, clip_folder: Path, photos: Path) -> None:
    grid = write_grid(tmp_path, clip_folder, photos, "stops")
    out = tmp_path / "results"
    stopped = bench(grid, "--out", out, "--workers", 1, stop_by="SIGINT")
    assert stopped.returncode == 130
    assert f"stopped; the same command goes on from what {out} holds." in " ".join(stopped.stderr.split())
    assert "Traceback" not in stopped.stderr
    assert len(read_records(out)) == 1


def test_a_failed_run_is_recorded_and_the_grid_goes_on(
    tmp_path: Path,
    clip_folder: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = write_grid(tmp_path, clip_folder, photos, "fails", "zero-shot", seeds="[1]")
    out = tmp_path / "results"
    code, stdout, stderr = call(capsys, monkeypatch, grid, "--out", out, "--workers", 1, "--json")
    assert code == 1
    assert json.loads(stdout) == {"planned": 2, "done": 1, "failed": 1, "failed_before": 0}
    assert "failed: fails on shapes, 2 shots, seed 1, clip: RuntimeError: out of luck" in stderr
    log = out / "workers.log"
    assert f"what the processes printed: {log}" in stderr
    assert "hard luck" in log.read_text(encoding="utf-8")
    failed = next(record for record in read_records(out).values() if record.status == "failed")
    assert isinstance(failed.outcome, RunFailure)
    assert (failed.attempts, failed.outcome.error) == (2, "RuntimeError: out of luck")
    assert "mine.py" in failed.outcome.trace
    assert run_grid(grid, out) == {"planned": 2, "done": 0, "failed": 0, "failed_before": 1}
    assert log.exists()
    (tmp_path / "mended").touch()
    assert run_grid(grid, out, retry_failed=True)["done"] == 1
    assert {record.status for record in read_records(out).values()} == {"ok"}
    assert not log.exists()


def test_what_cannot_work_is_found_before_the_first_run(
    tmp_path: Path, clip_folder: Path, photos: Path
) -> None:
    grid = write_grid(tmp_path, clip_folder, tmp_path / "nowhere", "block-lora")
    with pytest.raises(DataError, match="nowhere: this path does not exist"):
        run_grid(grid, tmp_path / "results")
    grid = write_grid(tmp_path, tmp_path / "no_model", photos, "block-lora")
    with pytest.raises(ModelError, match="no_model"):
        run_grid(grid, tmp_path / "results")
    grid = write_grid(tmp_path, clip_folder, photos, "block-lora")
    (tmp_path / "names.txt").write_text("one\n", encoding="utf-8")
    named = grid.read_text(encoding="utf-8").replace(
        "[data.shapes]", "[data.shapes]\nclass_names = 'names.txt'"
    )
    grid.write_text(named, encoding="utf-8")
    with pytest.raises(DataError, match=r"names\.txt: expected 3 class names"):
        run_grid(grid, tmp_path / "results")
    with pytest.raises(ConfigError, match="workers '0': expected a whole number of at least 1"):
        run_grid(grid, tmp_path / "results", workers=0)
    assert not (tmp_path / "results" / "runs.jsonl").exists()


def test_the_example_method_averages_names_and_images(clip_folder: Path, photos: Path) -> None:
    (method,) = load_methods(Path(__file__).parents[2] / "examples" / "new_method.py").values()
    clip = load_clip(str(clip_folder))
    split = few_shot(load_dataset(photos), 2, seed=1)
    prompts = ("a cross", "a disc", "a square")
    tokens, _ = tokenize(prompts, clip.tokenizer, clip.context_length)
    task = Task(prompts, prompts, tokens, split.train, flip=True)
    job = Job(task, clip, Compute(torch.device("cpu"), "fp32"), 0, "my-prototypes")
    with torch.no_grad():
        result = method.fit(job, method.settings())
        assert result.trainable_parameters == 0
        for label in range(3):
            shots = [e for e in split.train if e.label == label]
            assert len(shots) == 2
            features = [
                image_features(clip.model, pixels(open_image(e.source), clip.processor)[None])[0]
                for e in shots
            ]
            mean = (features[0] + features[1]) / 2
            expected = class_features(clip.model, tokens)[label] + mean / mean.norm()
            found = result.classifier.head.tensors["class_features"][label]
            assert torch.allclose(found, expected / expected.norm(), atol=1e-5)
