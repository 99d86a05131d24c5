"""The command line as a person drives it: in a process of its own, by its output and its exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blocklora.cli import app as cli
from blocklora.run import demo

CODE = "import sys; from blocklora.cli.app import main; main()"
FAST = ["--shots", "4", "--iterations", "3", "--lr", "0.01", "--device", "cpu"]


def start(*arguments: Any, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``blocklora`` in a fresh process, without a network."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, encoding="utf-8")


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: Any
) -> tuple[int, str, str]:
    """Run ``blocklora`` in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["blocklora", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def run(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    done = start("fit", photos, "--model", clip_folder, *FAST, "--seed", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "zero-shot" in done.stdout
    assert "block-lora" in done.stdout
    assert f"report: {out / 'report.html'}" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return out


def test_fit_evaluate_predict_speak_json(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, "evaluate", run, "--json")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert (code, json.loads(out)["accuracy"]) == (0, metrics["accuracy"])
    picture = photos / "red_square" / "1.png"
    code, out, _ = call(
        capsys, monkeypatch, "predict", run, picture, photos / "green disc", "--top-k", 2, "--json"
    )
    result = json.loads(out)
    assert code == 0
    assert result["unreadable"] == []
    assert len(result["predictions"]) == 13
    first = result["predictions"][0]
    assert first["image"] == str(picture)
    assert len(first["top"]) == 2
    assert first["top"][0] == {"label": first["label"], "probability": first["probability"]}


def test_fit_speaks_json(
    clip_folder: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [
        "fit",
        photos,
        "--model",
        clip_folder,
        *FAST,
        "--out",
        tmp_path / "r",
        "--targets",
        "q, v",
        "--json",
    ]
    code, out, _ = call(capsys, monkeypatch, *arguments)
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "r" / "metrics.json").read_text(encoding="utf-8"))
    config = json.loads((tmp_path / "r" / "config.json").read_text(encoding="utf-8"))
    assert config["targets"] == ["q", "v"]


def test_a_methods_own_settings(
    clip_folder: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = ["fit", photos, "--model", clip_folder, "--shots", 2, "--device", "cpu", "--out", tmp_path / "run"]
    probe = [*fit, "--method", "zero-shot-probe"]
    code, _, error = call(capsys, monkeypatch, *probe, "--set", "steps=3")
    assert (code, "error: unknown option 'steps': expected" in error) == (1, True)
    code, _, error = call(capsys, monkeypatch, *probe, "--r", 4)
    assert (code, "error: unknown option 'r': expected" in error) == (1, True)
    assert not (tmp_path / "run").exists()
    code, _, error = call(capsys, monkeypatch, *probe, "--set", "epochs=2", "--lr", 0.05, "--json")
    assert code == 0, error
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert (config["epochs"], config["lr"], config["batch_size"]) == (2, 0.05, 256)
    assert "r" not in config
    code, out, _ = call(capsys, monkeypatch, "predict", tmp_path / "run", photos / "green disc", "--json")
    assert code == 0
    assert len(json.loads(out)["predictions"]) == 12


def test_people_read_tables(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, "evaluate", run)
    assert code == 0
    assert "95% interval" in out
    code, out, _ = call(capsys, monkeypatch, "predict", run, photos / "red_square" / "1.png")
    assert code == 0
    assert out.count("%") == 3


def test_an_unreadable_image_is_named_and_the_rest_is_classified(
    run: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = tmp_path / "note.jpg"
    broken.write_text("not a picture", encoding="utf-8")
    good = photos / "red_square" / "1.png"
    code, out, err = call(capsys, monkeypatch, "predict", run, broken, good, "--json")
    assert code == 1
    result = json.loads(out)
    assert [item["image"] for item in result["predictions"]] == [str(good)]
    assert [item["image"] for item in result["unreadable"]] == [str(broken)]
    assert f"error: {broken}" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere"], "error: nowhere: this path does not exist"),
        (["fit", "EMPTY"], "EMPTY"),
        (["fit", "ONE"], "a classifier needs two or more"),
        (["fit", "PHOTOS", "--model", "nobody/clip"], "error: nobody/clip: no such folder here"),
        (["fit", "PHOTOS", "--r", "3"], "error: n_blocks '2': expected a divisor of r = 3."),
        (["fit", "PHOTOS", "--method", "magic"], "error: method 'magic': expected one of"),
        (["fit", "PHOTOS", "--device", "tpu"], "error: device 'tpu': expected auto"),
        (["evaluate", "nowhere"], "error: nowhere: no such folder; expected a RUN folder"),
        (["predict", "RUN", "EMPTY"], "this folder holds no images"),
        (["predict", "RUN", "nowhere.png"], "nowhere.png"),
    ],
)
def test_failures_are_one_line_and_exit_1(
    run: Path, photos: Path, make_photos: Callable[..., Path], tmp_path: Path, arguments: list[str], message: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(
        "blocklora.clip.load.HfApi.model_info", lambda *_, **__: (_ for _ in ()).throw(OSError("off"))
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    one = make_photos(tmp_path / "ONE", n=2)
    shutil.rmtree(one / "blue-cross")
    shutil.rmtree(one / "green disc")
    places = {"PHOTOS": photos, "RUN": run}
    code, _, err = call(capsys, monkeypatch, *[places.get(word, word) for word in arguments])
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments", [["fit"], ["fit", "x", "--nonsense"], ["fit", "x", "--shots", "many"], ["dance"]]
)
def test_wrong_commands_exit_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(capsys, monkeypatch, *arguments)
    assert (code, out) == (2, "")
    assert "Usage: blocklora" in err


def test_ctrl_c_says_how_to_go_on(
    clip_folder: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def press(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    arguments = ["fit", photos, "--model", clip_folder, *FAST, "--out", tmp_path / "r"]
    with monkeypatch.context() as patch:
        patch.setattr("blocklora.cli.console.RunProgress.step", press)
        code, out, err = call(capsys, monkeypatch, *arguments)
    assert (code, out) == (130, "")
    assert "stopped after step 1 of 3; go on with the same command and --resume." in err
    code, out, _ = call(capsys, monkeypatch, *arguments, "--resume")
    assert code == 0
    assert "report:" in out


def test_debug_shows_the_traceback() -> None:
    done = start("fit", "nowhere", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: nowhere")


def test_help_names_every_command() -> None:
    done = start("--help")
    assert done.returncode == 0
    for name in ("demo", "fit", "evaluate", "predict"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "runs/x"), "error: runs/x: No space left on device."),
        (RuntimeError("boom"), "error: unexpected RuntimeError: boom (run again with --debug"),
    ],
)
def test_other_failures(
    error: BaseException, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("blocklora.run.predict.predict_files", fail)
    code, _, err = call(capsys, monkeypatch, "predict", "run", "x.png")
    assert code == 1
    assert message in err


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SETTINGS", demo.SETTINGS | {"iterations": 1})
    monkeypatch.setattr(demo, "_SEEDS", (1, 2))
    out = tmp_path / "demo"
    code, text, _ = call(capsys, monkeypatch, "demo", "--out", out, "--json")
    result = json.loads(text)
    assert code == 0
    assert [row["seed"] for row in result["runs"]] == [1, 2]
    assert (out / "seed1" / "report.html").is_file()
    assert result["mean"] == pytest.approx(sum(row["accuracy"] for row in result["runs"]) / 2)
    code, text, _ = call(capsys, monkeypatch, "demo", "--out", out)  # made anew
    assert code == 0
    assert result["verdict"] in " ".join(text.split())


def test_a_verdict_needs_intervals_that_are_apart() -> None:
    def row(before: float, after: float) -> dict[str, Any]:
        return {
            "zero_shot_accuracy": before, "zero_shot_interval": [before - 0.1, before + 0.1],
            "accuracy": after, "accuracy_interval": [after - 0.1, after + 0.1],
        }  # fmt: skip

    assert demo._verdict([row(0.2, 0.8), row(0.3, 0.7)]).endswith("the 95% intervals are apart.")
    assert demo._verdict([row(0.2, 0.8), row(0.3, 0.45)]).endswith(
        "the 95% intervals overlap: no gain is shown."
    )
