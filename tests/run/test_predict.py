"""Files are classified in portions, each once; what is no image is left out or named."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from command import call
from PIL import Image

from blocklora import FewShotClassifier
from blocklora.core.errors import DataError
from blocklora.data import Unreadable
from blocklora.run.find import find_images
from blocklora.run.fit import fit_run
from blocklora.run.load import load_run
from blocklora.run.predict import Asked, Prediction, predict_images


@pytest.fixture(scope="module")
def run(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    paths = sorted(photos.glob("*/*.png"))
    classifier = FewShotClassifier(model=str(clip_folder), method="zero-shot", device="cpu")
    classifier.fit(paths, [path.parent.name for path in paths])
    classifier.save(folder := tmp_path_factory.mktemp("predict") / "run")
    return folder


def test_answers_are_those_of_the_classifier(run: Path, photos: Path, tmp_path: Path) -> None:
    (broken := tmp_path / "broken.png").write_text("no image", encoding="utf-8")
    files = sorted(photos.glob("*/*.png"))
    classifier = FewShotClassifier.load(run, device="cpu")
    told: list[int] = []
    loaded = replace(load_run(run, device="cpu"), images_at_once=10)
    answers = list(
        predict_images(loaded, [*files[:5], broken, *files[5:]], Asked(top_k=2), on_batch=told.append)
    )
    assert told == [10, 20, 30, 37]
    assert isinstance(answers.pop(5), Unreadable)
    good = [answer for answer in answers if isinstance(answer, Prediction)]
    assert [answer.image for answer in good] == [str(file) for file in files]
    expected = classifier.predict_proba(files)
    for answer, row in zip(good, expected, strict=True):
        order = np.argsort(-row, kind="stable")[:2]
        assert [label for label, _ in answer.top] == [classifier.classes_[place] for place in order]
        np.testing.assert_allclose([value for _, value in answer.top], row[order], atol=1e-6)


def test_answers_come_while_others_are_computed(run: Path, photos: Path) -> None:
    loaded = load_run(run, device="cpu")
    asked: list[int] = []

    def endless() -> Iterator[Path]:
        for n in count():
            asked.append(n)
            yield photos / "red_square" / "1.png"

    answers = predict_images(loaded, endless())
    for _ in range(loaded.images_at_once + 1):
        next(answers)
    assert len(asked) <= 3 * loaded.images_at_once + 2  # two batches, and one that is decoded ahead
    answers.close()


def test_what_systems_leave_is_left_out(photos: Path, tmp_path: Path) -> None:
    image = photos / "red_square" / "0.png"
    for name in ("b/2.png", "b/1.PNG", "a.png", "._a.png", "__MACOSX/._a.png", "__MACOSX/a.png", ".hidden/a.png",
                 ".ipynb_checkpoints/a-checkpoint.png", "@eaDir/a.png", "Thumbs.db", "notes.txt"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(image, tmp_path / name)
    assert find_images([tmp_path]).files == [
        tmp_path / "a.png",
        tmp_path / "b" / "1.PNG",
        tmp_path / "b" / "2.png",
    ]


def test_a_file_is_answered_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    folder = Path("red_square")
    found = find_images(
        [folder / "3.png", folder, folder, Path("./red_square/3.png"), folder.resolve() / "4.png"]
    )
    assert found.files[0] == folder / "3.png"
    assert (len(found.files), found.repeated) == (12, 15)


def test_nothing_to_classify(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"this folder holds no images \(\.avif, "):
        find_images([tmp_path])
    found = find_images([tmp_path, tmp_path / "gone.png"])
    assert found.files == [tmp_path / "gone.png"]
    assert [item.image for item in found.without] == [str(tmp_path)]


@pytest.mark.parametrize("as_json", [True, False])
def test_what_cannot_be_answered_is_named_and_the_rest_is_answered(
    as_json: bool, run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    good = photos / "red_square" / "1.png"
    (tmp_path / "note.jpg").write_text("not an image", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    bad = ["note.jpg", "gone.png", "empty"]
    if sys.platform != "win32":
        (tmp_path / "links").mkdir()
        os.symlink(tmp_path / "nowhere.png", tmp_path / "links" / "dangling.png")
        bad.append("links/dangling.png")
    paths = [tmp_path / name.removesuffix("/dangling.png") for name in bad]
    code, out, err = call(
        capsys, monkeypatch, "predict", run, *paths, good, good, "--device", "cpu", *["--json"] * as_json
    )
    assert code == 1
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    for name in bad:
        assert sum(str(tmp_path / name) + ":" in line for line in errors) == 1
    assert len(errors) == len(bad)
    assert "note: 1 image named more than once, and answered once." in err
    if as_json:
        result = json.loads(out)
        assert [item["image"] for item in result["predictions"]] == [str(good)]
        assert sorted(item["image"] for item in result["unreadable"]) == sorted(
            str(tmp_path / name) for name in bad
        )
        assert result["run"] == str(run)
    else:
        assert [line.split(": ")[0] for line in out.splitlines()] == [str(good)]


def test_no_answers_are_whole_json(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(
        capsys, monkeypatch, "predict", run, tmp_path / "gone.png", "--json", "--device", "cpu"
    )
    result = json.loads(out)
    assert (code, result["predictions"], len(result["unreadable"])) == (1, [], 1)


def test_sets_are_those_of_the_estimator(
    clip_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, run: Path,
) -> None:  # fmt: skip
    paths = sorted(photos.glob("*/*.png"))
    classifier = FewShotClassifier(model=str(clip_folder), method="prototypes", device="cpu")
    classifier.fit(paths, [path.parent.name for path in paths]).save(tmp_path / "kept")
    arguments = [*paths[::9], "--coverage", "0.7", "--device", "cpu"]
    code, out, err = call(capsys, monkeypatch, "predict", tmp_path / "kept", *arguments, "--json")
    assert code == 0
    assert "cross-validation on 36 training images" in err
    answers = json.loads(out)["predictions"]
    expected = classifier.predict_set(paths[::9], 0.7)
    assert [set(item["set"]) for item in answers] == [set(labels.tolist()) for labels in expected]
    strange = tmp_path / "strange.png"
    Image.effect_noise((40, 40), 200).save(strange)
    both = [paths[0], strange, "--unknown", "--false-alarms", "0.1", "--device", "cpu"]
    code, out, err = call(capsys, monkeypatch, "predict", tmp_path / "kept", *both, "--json")
    assert "about 10% are called unknown by mistake" in err
    for item in json.loads(out)["predictions"]:
        assert item["unknown"] == (item["chance_known"] <= 0.1) == (item["label"] == "unknown")
    code, out, err = call(capsys, monkeypatch, "predict", tmp_path / "kept", *both, "--false-alarms", "5")
    assert (code, "expected a number above 0 and below 1" in err) == (1, True)
    code, out, _ = call(capsys, monkeypatch, "predict", tmp_path / "kept", *arguments, "--explain", "--json")
    for item in json.loads(out)["predictions"]:
        why = item["reasons"]
        assert why["nearest"][0] == {
            "image": item["image"], "label": Path(item["image"]).parent.name, "cosine": pytest.approx(1, abs=2e-3)
        }  # fmt: skip
        assert why["evidence"][0]["label"] == item["label"]
        assert np.abs(why["heat_map"]).max() == 1
        assert np.shape(why["heat_map"]) == (2, 2)
    code, out, _ = call(capsys, monkeypatch, "predict", tmp_path / "kept", *arguments, "--explain")
    assert out.count("    like ") == 12
    code, out, _ = call(capsys, monkeypatch, "predict", tmp_path / "kept", *arguments, "--by-class")
    assert all("; set: " in line for line in out.splitlines())
    assert classifier.predict_set([], 0.7) == []
    code, _, err = call(capsys, monkeypatch, "predict", run, *arguments)
    assert code == 1
    assert "nothing can be said about sets of classes" in err


def test_sets_that_fell_short_on_the_test_images_are_called_so(
    clip_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, _ = fit_run(
        str(photos), tmp_path / "run", model=str(clip_folder), method="zero-shot", shots=4, device="cpu"
    )
    asked = ("predict", out, next(photos.glob("*/*.png")), "--coverage", "0.9", "--device", "cpu")
    for covered, interval, said in ((0.6, [0.5, 0.7], True), (0.88, [0.8, 0.93], False)):
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        metrics["confidence"]["sets"] |= {"covered": covered, "covered_interval": interval}
        (out / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        code, _, err = call(capsys, monkeypatch, *asked)
        assert code == 0
        assert ("promise nothing like 90%" in " ".join(err.split())) == said


def test_a_tower_without_heat_maps_is_told(
    clip_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, _ = fit_run(
        str(photos), tmp_path / "run", model=str(clip_folder), method="maple", shots=1, epochs=1, device="cpu"
    )
    image = next(photos.glob("*/*.png"))
    code, said, err = call(
        capsys, monkeypatch, "predict", out, image, "--explain", "--json", "--device", "cpu"
    )
    why = "the image tower of maple reads learned vectors beside the patches"
    assert (code, f"note: There are no heat maps: {why}." in err) == (0, True)
    (answer,) = json.loads(said)["predictions"]
    assert (answer["reasons"]["heat_map"], answer["reasons"]["why_no_heat_map"]) == (None, why)
