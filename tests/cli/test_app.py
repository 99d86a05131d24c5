"""The command line as a person drives it: in a process of its own, by its output and its exit code."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from command import call, start

from blocklora.cli.fit import how_long, what_will_be_done
from blocklora.cli.options import FitOptions

FAST = ["--shots", "4", "--iterations", "3", "--lr", "0.01", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    done = start("fit", photos, "--model", clip_folder, *FAST, "--seed", 1, "--out", out)
    text, error = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, error
    assert "zero-shot" in text
    assert "block-lora" in text
    assert f"report: {out / 'report.html'}" in text
    assert error.startswith(
        f"Fitting block-lora to {photos}: 4 images a class, model {clip_folder}, 3 steps of 32"
    )
    assert "engine" not in error
    assert "Traceback" not in error
    assert "Warning" not in error
    return out


def test_fit_evaluate_predict_speak_json(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, "evaluate", run, "--json")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert (code, json.loads(out)["accuracy"]) == (0, metrics["accuracy"])
    image = photos / "red_square" / "1.png"
    code, out, _ = call(
        capsys, monkeypatch, "predict", run, image, photos / "green disc", "--top-k", 2, "--json"
    )
    result = json.loads(out)
    assert code == 0
    assert result["unreadable"] == []
    assert len(result["predictions"]) == 13
    first = result["predictions"][0]
    assert first["image"] == str(image)
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
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text(encoding="utf-8"))
    assert json.loads(out) == metrics | {"run": str(tmp_path / "r")}
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
    assert "block-lora" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere"], "error: nowhere: this path does not exist"),
        (["fit", "digts"], "did you mean 'digits'?"),
        (["demo", "--data", "digts"], "did you mean 'digits'?"),
        (["datasets", "digts"], "did you mean 'digits'?"),
        (["fit", "PHOTOS", "--model", "Tinny"], "did you mean 'tiny'?"),
        (["fit", "PHOTOS", "--model", "ViT-B/32"], "did you mean 'openai/clip-vit-base-patch32'?"),
        (["fit", "PHOTOS", "--method", "coopp"], "did you mean 'coop'?"),
        (
            ["fit", "PHOTOS", "--towers", "vison"],
            "error: towers 'vison': expected one of both, vision, text; did",
        ),
        (["fit", "PHOTOS", "--method", "coop", "--set", "epoch=3"], "did you mean 'epochs'?"),
        (["base-to-new", "digts"], "did you mean 'digits'?"),
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
        "huggingface_hub.HfApi.model_info", lambda *_, **__: (_ for _ in ()).throw(OSError("off"))
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
    assert not list(tmp_path.glob("runs/*"))


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
        patch.setattr("blocklora.cli.progress.RunProgress.step", press)
        code, out, err = call(capsys, monkeypatch, *arguments)
    assert (code, out) == (130, "")
    assert "stopped after step 1 of 3; go on with the same command and --resume." in err
    code, out, _ = call(capsys, monkeypatch, *arguments, "--resume")
    assert code == 0
    assert "report:" in out


def test_debug_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = call(capsys, monkeypatch, "fit", "nowhere", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert err.strip().splitlines()[-1].startswith("error: nowhere")


@pytest.mark.parametrize("ask", [["-h"], ["--help"], []])
def test_help_names_every_command_in_whole_sentences(
    ask: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = call(capsys, monkeypatch, *ask)
    assert code == (0 if ask else 2)
    text = " ".join((out + err).replace("│", " ").split())
    for sentence in (
        "demo Show zero-shot against Block-LoRA, offline, with the bundled model: 16 shots, three seeds.",
        "fit Fit a classifier to a few labelled images and write a RUN folder with an honest report.",
        "predict Classify images; one that cannot be read is named, and makes the exit code 1.",
        "domain-generalization Train on ImageNet; test on its shifted variants (default: V2, Sketch, A and R).",
        "--install-completion",
    ):
        assert sentence in text
    assert "..." not in text.split("[ARGS]...")[1]


def test_options_are_in_groups_with_their_choices(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in ("fit", "base-to-new", "cross-dataset", "domain-generalization"):
        code, out, _ = call(capsys, monkeypatch, command, "-h")
        assert code == 0
        for words in (" Data ", " Adapter ", " Machine ", "both|vision|text", "auto|lean|plain", "promptsrc"):
            assert words in out
        assert max(map(len, out.splitlines())) == 80
        assert ("--to " in out) == (command in ("cross-dataset", "domain-generalization"))


def test_version_and_module() -> None:
    done = start("--version")
    assert (done.returncode, done.stdout.split()) == (0, [b"blocklora", version("blocklora").encode()])


def test_completion(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_BLOCKLORA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "blocklora dom")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert call(capsys, monkeypatch)[1].split() == ["domain-generalization"]


@pytest.mark.parametrize(
    ("wrong", "near"), [("--shot", "--shots"), ("--metod", "--method"), ("evalute", "evaluate")]
)
def test_a_wrong_option_or_command_names_the_nearest(
    wrong: str, near: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["fit", "digits", wrong, "4"] if wrong.startswith("-") else [wrong]
    code, _, err = call(capsys, monkeypatch, *arguments)
    assert code == 2
    assert near in err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "runs/x"), "error: runs/x: No space left on device."),
        (RuntimeError("boom"), "error: unexpected RuntimeError: boom (run again with --debug"),
    ],
)
def test_other_failures(
    error: BaseException,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("blocklora.run.evaluate.evaluate_run", fail)
    code, _, err = call(capsys, monkeypatch, "evaluate", tmp_path)
    assert code == 1
    assert message in err


def test_verbose_tells_of_engine_and_memory(
    clip_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    arguments = ["fit", photos, "--model", clip_folder, *FAST, "--out", tmp_path / "r", "--verbose"]
    code, _, err = call(capsys, monkeypatch, *arguments)
    assert code == 0
    assert "engine: lean" in err
    assert "peak memory" in err


def test_zero_shot_is_one_row(
    clip_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fit = [
        "fit",
        photos,
        "--model",
        clip_folder,
        "--method",
        "zero-shot",
        "--device",
        "cpu",
        "--out",
        tmp_path / "r",
    ]
    for arguments in (fit, ["evaluate", tmp_path / "r"]):
        code, out, err = call(capsys, monkeypatch, *arguments)
        assert code == 0, err
        assert [line.split()[1] for line in out.splitlines() if "%" in line and " to " in line] == [
            "zero-shot"
        ]


def test_home_is_meant_by_a_tilde(
    clip_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(here)
    shutil.copytree(clip_folder, home / "clip")
    shutil.copytree(photos, home / "photos")
    (home / "names.txt").write_text("a\nb\nc\n", encoding="utf-8")
    fit = ["fit", "~/photos", "--model=~/clip", "--out=~/run", "--class-names=~/names.txt", *FAST]
    assert call(capsys, monkeypatch, *fit)[0] == 0
    assert call(capsys, monkeypatch, "predict", "~/run", "~/photos/red_square")[0] == 0
    assert call(capsys, monkeypatch, "evaluate", "~/run", "--data=~/photos")[0] in (
        0,
        1,
    )  # names are others here
    assert sorted(path.name for path in home.iterdir()) == ["clip", "names.txt", "photos", "run"]
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shots": 1}, "Fitting block-lora to x: 1 image a class, model openai/clip-vit-base-patch16, 500 steps of 32 "
         "images."),
        ({"model": "tiny", "iterations": 1}, "Fitting block-lora to x: all images a class, model tiny, 1 step of 32 "
         "images."),
        ({"model": "tiny", "shots": 16, "batch_size": 1}, "Fitting block-lora to x: 16 images a class, model tiny, "
         "8,000 steps of 1 image."),
        ({"model": "a/b", "shots": 2}, "Fitting block-lora to x: 2 images a class, model a/b, 1,000 steps of 32 "
         "images."),
        ({"model": "a/b", "shots": 2, "time_limit": "600"}, "Fitting block-lora to x: 2 images a class, model a/b, "
         "1,000 steps of 32 images, or what can be done in 10 minutes."),
        ({"model": "a/b", "method": "tip-adapter"}, "Fitting tip-adapter to x: all images a class, model a/b."),
    ],
)  # fmt: skip
def test_the_first_line_says_what_will_be_done(options: dict[str, Any], words: str) -> None:
    assert what_will_be_done(FitOptions("x", **options)) == words


@pytest.mark.parametrize(
    ("seconds", "out", "words"),
    [
        (59, None, ""),
        (120, None, "This takes about 2 minutes on this device."),
        (7200, None, "This takes about 2 hours on this device. To end in 10 minutes: blocklora fit 'my photos' "
         "--time-limit 10m"),
        (7200, Path("a b"), "This takes about 2 hours on this device. To end in 10 minutes: blocklora fit 'my photos' "
         "--time-limit 10m --out 'a b-10m'"),
    ],
)  # fmt: skip
def test_a_long_fit_says_which_command_ends_sooner(seconds: float, out: Path | None, words: str) -> None:
    assert how_long(seconds, ["fit", "my photos"], out) == words
