"""A class is added to a finished run: the old run stays, and the new one is a run like any other."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import call
from PIL import Image, ImageDraw
from runs import names, read
from safetensors.torch import load_file

from blocklora.classifier import read_both_towers, read_classifier, template_features
from blocklora.core.errors import ConfigError, DataError, RunError
from blocklora.core.files import write_json
from blocklora.methods.frozen.gda import discriminant
from blocklora.metrics import wilson_interval
from blocklora.report import read_metrics
from blocklora.run.add_class import add_class
from blocklora.run.evaluate import evaluate_run
from blocklora.run.fit import fit_run

FEATURES = "class_features.safetensors"
ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def triangles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images of a class that no run knows."""
    folder = tmp_path_factory.mktemp("new") / "triangles"
    folder.mkdir()
    for index in range(16):
        image = Image.new("RGB", (40, 48), (200 + index, 220, 240))
        ImageDraw.Draw(image).polygon([(5, 40), (20 + index % 5, 4), (35, 40)], fill="orange")
        image.save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def named(run: Path, triangles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of block-lora with a class more, by its name; do not write into it."""
    out = tmp_path_factory.mktemp("added") / "b"
    assert add_class(run, "triangle", triangles, out, device="cpu")[0] == out
    return out


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file of a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fitted(clip_folder: Path, photos: Path, out: Path, method: str, **more: Any) -> Path:
    """Return a run of a method with four images a class."""
    return fit_run(
        str(photos), out, model=str(clip_folder), method=method, shots=4, seed=1, device="cpu", **more
    )[0]


def test_the_new_run_is_a_run_and_the_old_one_stays(
    run: Path, named: Path, triangles: Path, tmp_path: Path
) -> None:
    before = contents(run)
    add_class(run, " triangle ", triangles, tmp_path / "again", device="cpu")
    assert contents(run) == before
    assert names(tmp_path / "again") == names(run) == names(named)
    old, new = read_classifier(run)[0], read_classifier(named)[0]
    assert new.class_names == (*old.class_names, "triangle")
    again = evaluate_run(named, device="cpu").evaluation
    assert again.confusion_counts == read_metrics(named / "metrics.json").evaluation.confusion_counts


def test_old_class_features_keep_their_bits_and_the_new_one_is_of_the_adapted_tower(
    run: Path, named: Path
) -> None:
    old, new = load_file(run / FEATURES), load_file(named / FEATURES)
    n = len(old["zero_shot"])
    for name in ("head/class_features", "zero_shot"):
        assert torch.equal(new[name][:n], old[name])
    classifier, clip = read_both_towers(run)
    for name, model in (
        ("head/class_features", classifier.adapter.get_base_model()),
        ("zero_shot", clip.model),
    ):
        expected = template_features(model, clip, ["triangle"], ["a photo of a {}."])
        torch.testing.assert_close(new[name][n:], expected)


def test_accuracies_are_those_of_the_predictions(run: Path, named: Path) -> None:
    with (named / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    hits = {
        own: [row["correct"] == "yes" for row in rows if (row["label"] == "triangle") == own]
        for own in (True, False)
    }
    was, added = read(run / "metrics.json"), read(named / "metrics.json")["added_class"]
    assert (added["before"], added["before_interval"]) == (was["accuracy"], was["accuracy_interval"])
    assert (added["n_test"], added["after"]) == (was["n_test"], sum(hits[False]) / was["n_test"])
    assert (added["n_held_out"], added["own"]) == (len(hits[True]), sum(hits[True]) / len(hits[True]))
    assert added["own_interval"] == list(wilson_interval(sum(hits[True]), len(hits[True])))
    assert (added["how"], added["run"], added["name"]) == ("name", str(run.resolve()), "triangle")


def test_images_are_recorded_and_learned_from_by_none(run: Path, named: Path) -> None:
    before, after = read(run / "split.json"), read(named / "split.json")
    counts = {part: len(after[part]) - len(before[part]) for part in ("train", "val", "test")}
    assert counts == {
        "train": 4,
        "val": 3,
        "test": 9,
    }  # shots 4; a quarter of 16 tests, and what is left over
    assert after["train"][: len(before["train"])] == before["train"]
    assert read(named / "metrics.json")["n_train"] == read(run / "metrics.json")["n_train"]
    known = read_classifier(named)[0].evidence
    assert known.training
    assert known.held_out
    assert (len(known.training.names), len(known.held_out.labels)) == (16, 15)


def test_what_is_said_of_it(named: Path) -> None:
    page = (named / "report.html").read_text(encoding="utf-8")
    assert "The class triangle was added to " in page
    assert "On the 9 test images of the other classes the accuracy was " in page
    assert "Of 9 held-out images of triangle, " in page


def test_gda_is_that_of_all_features(
    clip_folder: Path, photos: Path, triangles: Path, tmp_path: Path
) -> None:
    run = fitted(clip_folder, photos, tmp_path / "a", "gda")
    out, metrics = add_class(run, "triangle", triangles, tmp_path / "b", device="cpu")
    classifier, clip = read_both_towers(out)
    known = classifier.evidence.training
    assert known is not None
    features, labels = known.features.double(), torch.from_numpy(known.labels)
    assert torch.bincount(labels).tolist() == [4, 4, 4, 4]
    weight, bias = discriminant(features, labels, 4)
    alpha = metrics.choices["alpha"].value
    texts = float(clip.model.logit_scale.exp()) * classifier.zero_shot_features
    assert isinstance(alpha, float)
    expected = torch.cat([texts + alpha * weight, alpha * bias[:, None]], dim=1)
    own = torch.cat([classifier.head.tensors["weight"], classifier.head.tensors["bias"][:, None]], dim=1)
    assert (own - expected).norm() < 0.02 * expected.norm()  # features are kept in half precision
    assert metrics.added_class
    assert (metrics.added_class.how, metrics.n_train) == ("features", 16)


def test_tip_adapter_gets_the_new_images_into_its_cache(
    clip_folder: Path, photos: Path, triangles: Path, tmp_path: Path
) -> None:
    run = fitted(clip_folder, photos, tmp_path / "a", "tip-adapter")
    out, _ = add_class(run, "triangle", triangles, tmp_path / "b", device="cpu")
    old, new = load_file(run / FEATURES), load_file(out / FEATURES)
    assert torch.equal(new["head/keys"][:12], old["head/keys"])
    assert len(new["head/keys"]) == 16
    assert new["head/values"][12:].argmax(dim=1).tolist() == [3] * 4
    assert torch.equal(new["head/values"].sum(dim=1), torch.ones(16))


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("zero-shot", {}),
        ("proker", {}),
        ("prototypes", {}),
        ("linear-probe", {}),
        ("cocoop", {"epochs": 1}),
        ("2sfs", {"iterations": 2}),
    ],
)
def test_other_heads(
    method: str, more: dict[str, int], clip_folder: Path, photos: Path, triangles: Path, tmp_path: Path
) -> None:
    run = fitted(clip_folder, photos, tmp_path / "a", method, **more)
    out, metrics = add_class(run, "triangle", triangles, tmp_path / "b", device="cpu")
    assert metrics.evaluation.n_classes == 4
    again = evaluate_run(out, device="cpu").evaluation
    assert again.confusion_counts == metrics.evaluation.confusion_counts


def test_training_goes_on_from_the_old_adapter(run: Path, triangles: Path, tmp_path: Path) -> None:
    still = tmp_path / "still"
    shutil.copytree(run, still)
    write_json(still / "config.json", read(still / "config.json") | {"lr": 1e-6, "weight_decay": 0.0})
    out, metrics = add_class(still, "triangle", triangles, tmp_path / "b", train=True, device="cpu")
    old, new = load_file(run / ADAPTER), load_file(out / ADAPTER)
    assert old.keys() == new.keys()
    for name, value in old.items():
        torch.testing.assert_close(new[name], value, rtol=0, atol=1e-5)
    assert any(not torch.equal(new[name], value) for name, value in old.items())
    assert metrics.added_class
    assert (metrics.added_class.how, metrics.n_train) == ("training", 16)
    assert read(out / "config.json")["added_class"]["run"] == str(still.resolve())
    with pytest.raises(RunError, match="holds a finished run"):
        add_class(still, "triangle", triangles, out, train=True, device="cpu")
    again = add_class(still, "triangle", triangles, out, train=True, resume=True, device="cpu")[1]
    assert again == metrics


def test_a_head_that_cannot_grow_is_refused_before_anything_is_written(
    clip_folder: Path, photos: Path, triangles: Path, tmp_path: Path
) -> None:
    run = fitted(clip_folder, photos, tmp_path / "a", "taskres", epochs=1, passes=1)
    with pytest.raises(
        ConfigError, match=r"add --train, which fits it again .* 'blocklora fit --method auto'"
    ):
        add_class(run, "triangle", triangles, tmp_path / "b", device="cpu")
    assert not (tmp_path / "b").exists()
    _, metrics = add_class(run, "triangle", triangles, tmp_path / "b", train=True, device="cpu")
    assert metrics.evaluation.n_classes == 4


def test_images_of_the_run_that_are_gone(
    clip_folder: Path, photos: Path, triangles: Path, tmp_path: Path
) -> None:
    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    run = fitted(clip_folder, data, tmp_path / "a", "zero-shot")
    record = read(run / "split.json")
    (data / record["train"][0]["image"]).unlink()
    with pytest.raises(
        DataError, match=r"1 image of the 12 images of the part 'train' of .*there is no such"
    ):
        add_class(run, "triangle", triangles, tmp_path / "b", train=True, device="cpu")
    add_class(run, "triangle", triangles, tmp_path / "c", device="cpu")  # needs no training image
    (data / record["test"][0]["image"]).unlink()
    with pytest.raises(DataError, match="of the 9 images of the part 'test'"):
        add_class(run, "triangle", triangles, tmp_path / "d", device="cpu")
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "d").exists()


def test_other_weights_are_refused(run: Path, triangles: Path, tmp_path: Path, make_clip: Any) -> None:
    other = make_clip(tmp_path / "other", seed=5)
    for train in (False, True):
        with pytest.raises(RunError, match=r"other weights|another image tower"):
            add_class(run, "triangle", triangles, tmp_path / "b", train=train, model=str(other), device="cpu")
    assert not (tmp_path / "b").exists()


def test_places_that_cannot_be(run: Path, triangles: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is the run that the class is added to"):
        add_class(run, "triangle", triangles, run, device="cpu")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="not empty and holds no run"):
        add_class(run, "triangle", triangles, tmp_path / "full", device="cpu")
    assert names(tmp_path / "full") == ["notes.txt"]
    with pytest.raises(DataError, match="the run has the class 'red_square' already"):
        add_class(run, "Red Square", triangles, tmp_path / "b", device="cpu")


def test_a_failure_leaves_nothing(
    run: Path, triangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("blocklora.run.add_class.write_classifier", fail)
    with pytest.raises(OSError, match="disk full"):
        add_class(run, "triangle", triangles, tmp_path / "b", device="cpu")
    assert not (tmp_path / "b").exists()


def test_the_command(
    run: Path,
    triangles: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = str(tmp_path / "b")
    words = ["add-class", run, "triangle", triangles, "--out", out, "--device", "cpu"]
    code, said, _ = call(capsys, monkeypatch, *words)
    assert code == 0
    assert "by its name, without training." in said
    assert "Of 9 held-out images of triangle, " in said
