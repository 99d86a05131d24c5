"""The fifteen data sets and the settings of the literature, as a person runs them, on miniature copies."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mini_trees as mini
import published_sampling as published
import pytest
import torch
from command import call
from PIL import Image
from runs import names, read

from blocklora.classifier import Classifier, encode, template_features
from blocklora.clip import class_features, load_clip, tokenize
from blocklora.core.errors import ConfigError, DataError, RunError, SealedTestError
from blocklora.data import SHIFTS, TRAINABLE, load_dataset, prompts
from blocklora.methods import METHODS, fit_config
from blocklora.run import fit as runs
from blocklora.run import transfer as protocols
from blocklora.run.evaluate import evaluate_run
from blocklora.run.fit import fit_run
from blocklora.run.load import LoadedRun, load_run
from blocklora.run.transfer import AdaptedTowers, base_to_new, cross_dataset

FAST = ["--shots", "2", "--iterations", "2", "--lr", "0.01", "--device", "cpu", "--seed", "1"]


def settings(folder: Path, root: Path, **more: Any) -> dict[str, Any]:
    return {
        "root": str(root), "model": str(folder), "shots": 2, "seed": 1, "iterations": 2, "lr": 1e-2, "device": "cpu"
    } | more  # fmt: skip


def probabilities(loaded: LoadedRun, images: list[Any]) -> torch.Tensor:
    """Return the probabilities of a loaded run for images."""
    found = encode(
        loaded.classifier, [(str(place), image) for place, image in enumerate(images)], loaded.compute
    )
    return torch.from_numpy(loaded.classifier.probabilities(found.features))


def check_same(one: Classifier, other: Classifier) -> None:
    """Compare what two classifiers predict by."""
    torch.testing.assert_close(one.logits(torch.eye(16)), other.logits(torch.eye(16)))
    torch.testing.assert_close(one.zero_shot_features, other.zero_shot_features)


def test_the_command_of_the_documents(mini_root: Path, tmp_path: Path) -> None:
    code = "import sys; from blocklora.cli.app import main; main()"
    command = [
        "fit",
        "oxford_pets",
        "--root",
        str(mini_root),
        "--model",
        "tiny",
        "--shots",
        "4",
        "--iterations",
        "2",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--device", "cpu"], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "oxford_pets-block-lora-4shot-seed0"
    metrics, split = read(run / "metrics.json"), read(run / "split.json")
    assert (metrics["n_train"], metrics["n_val"], metrics["n_test"]) == (12, 12, 9)
    assert metrics["prompt"] == "a photo of a {}, a type of pet."
    assert split.keys() == {"train", "val", "test", "folder", "hash", "training_hash"}
    assert len(split["test"]) == 9


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_set_is_fitted_by_name(
    name: str, clip_folder: Path, mini_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    arguments = [
        "fit",
        name,
        "--root",
        mini_root,
        "--model",
        clip_folder,
        *FAST,
        "--out",
        tmp_path / "run",
        "--json",
    ]
    code, out, err = call(capsys, monkeypatch, *arguments)
    assert code == 0, err
    metrics = json.loads(out)
    n = metrics["n_classes"]
    assert (metrics["dataset"], metrics["n_train"], metrics["n_test"]) == (name, 2 * n, 3 * n)
    assert evaluate_run(tmp_path / "run", device="cpu").evaluation.accuracy == metrics["accuracy"]


def test_options_of_the_data(
    clip_folder: Path, mini_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = ["fit", "dtd", "--root", mini_root, "--model", clip_folder, *FAST, "--json"]
    code, out, err = call(capsys, monkeypatch, *command, "--protocol", "clip-lora", "--out", tmp_path / "a")
    assert code == 0, err
    first = json.loads(out)
    train, val = published.clip_lora("dtd", 2, 1)
    assert first["files"]["train"]["first"] == [image for image, _ in train]
    assert first["files"]["val"]["first"] == [image for image, _ in val]
    names = tmp_path / "names.txt"
    names.write_text("stripes\ndots\nzigzag\n", encoding="utf-8")
    more = [
        "--index",
        tmp_path / "a" / "split.json",
        "--class-names",
        names,
        "--prompt",
        "{} cloth.",
        "--prompt",
        "{}",
    ]
    code, out, err = call(capsys, monkeypatch, *command, *more, "--out", tmp_path / "b")
    assert code == 0, err
    second = json.loads(out)
    assert second["files"] == first["files"]
    assert (second["prompt"], second["ensemble"]) == ("{} cloth.", ["{} cloth.", "{}"])
    assert [row["class_name"] for row in second["per_class"]] == ["stripes", "dots", "zigzag"]
    assert evaluate_run(tmp_path / "b", device="cpu").evaluation.accuracy == second["accuracy"]


def test_domain_generalization(
    clip_folder: Path, mini_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = [
        "domain-generalization",
        "--root",
        mini_root,
        "--model",
        clip_folder,
        *FAST,
        "--out",
        tmp_path / "dg",
    ]
    code, out, err = call(capsys, monkeypatch, *command)
    assert code == 0, err
    assert "mean of the targets" in out
    summary = read(tmp_path / "dg" / "summary.json")
    rows = {row["name"]: row for row in summary["results"]}
    assert list(rows) == ["imagenet", *SHIFTS]
    assert [rows[name]["n_classes"] for name in SHIFTS] == [5, 5, 3, 3]
    assert [rows[name]["n_test"] for name in SHIFTS] == [15, 15, 9, 9]
    assert summary["mean"] == pytest.approx(sum(rows[name]["accuracy"] for name in SHIFTS) / 4)
    assert all((tmp_path / "dg" / f"{name}.json").is_file() for name in SHIFTS)


def test_base_to_new(
    clip_folder: Path, mini_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = ["base-to-new", "stanford_cars", "--root", mini_root, "--model", clip_folder, *FAST]
    code, out, err = call(capsys, monkeypatch, *command, "--out", tmp_path / "b2n", "--json")
    assert code == 0, err
    result = json.loads(out)
    base, new = result["results"]
    assert (base["n_classes"], new["n_classes"]) == (3, 2)
    total = base["accuracy"] + new["accuracy"]
    expected = 2 * base["accuracy"] * new["accuracy"] / total if total else 0
    assert result["harmonic_mean"] == pytest.approx(expected)
    split = read(tmp_path / "b2n" / "base" / "split.json")
    whole = load_dataset("stanford_cars", root=mini_root)
    assert {item["class_name"] for part in split.values() if isinstance(part, list) for item in part} == set(
        whole.class_names[:3]
    )
    again = base_to_new("stanford_cars", tmp_path / "b2n", resume=True, **settings(clip_folder, mini_root))
    assert again["results"] == result["results"]
    code, out, _ = call(capsys, monkeypatch, *command, "--out", tmp_path / "b2n", "--resume")
    assert code == 0
    assert "harmonic mean" in out


def test_base_to_new_takes_any_setting_of_the_method(
    clip_folder: Path, mini_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = [
        "base-to-new",
        "sun397",
        "--root",
        mini_root,
        "--model",
        clip_folder,
        "--device",
        "cpu",
        "--shots",
        "2",
    ]
    command += ["--method", "coop", "--set", "epochs=2", "--set", "n_context=3", "--out", tmp_path / "coop"]
    code, _, err = call(capsys, monkeypatch, *command)
    assert code == 0, err
    config = read(tmp_path / "coop" / "base" / "config.json")
    assert (config["epochs"], config["n_context"]) == (2, 3)
    assert read(tmp_path / "coop" / "new.json")["prompts"] == ["[3 learned vectors] {}."]
    code, _, err = call(capsys, monkeypatch, *command, "--set", "epoch=2")
    assert code == 1
    assert "epoch" in err


def test_cross_dataset(
    clip_folder: Path, mini_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = ["cross-dataset", "--root", mini_root, "--model", clip_folder, *FAST, "--to", "dtd, eurosat"]
    code, out, err = call(capsys, monkeypatch, *command, "--out", tmp_path / "x", "--json")
    assert code == 0, err
    assert [row["name"] for row in json.loads(out)["results"]] == ["imagenet", "dtd", "eurosat"]
    assert read(tmp_path / "x" / "dtd.json")["prompts"] == ["{} texture."]
    assert {name: read(tmp_path / "x" / "dtd.json")[name] for name in ("method", "precision", "device")} == {
        "method": "block-lora", "precision": "fp32", "device": "cpu"
    }  # fmt: skip


def test_the_targets_are_the_others_of_the_eleven(
    clip_folder: Path, mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(protocols, "read_labelled", lambda choice: seen.append(choice.data))
    monkeypatch.setattr(protocols, "fit_run", lambda *_, **__: (_ for _ in ()).throw(DataError("enough")))
    with pytest.raises(DataError, match="enough"):
        cross_dataset("dtd", tmp_path / "y", **settings(clip_folder, mini_root))
    assert seen == [name for name in TRAINABLE if name != "dtd"]


def test_a_target_that_is_missing_is_found_before_training(clip_folder: Path, tmp_path: Path) -> None:
    mini.write_imagenet(tmp_path)
    with pytest.raises(DataError, match="holds no folder 'imagenetv2'"):
        protocols.domain_generalization("imagenet", tmp_path / "dg", **settings(clip_folder, tmp_path))
    assert not (tmp_path / "dg").exists()


def test_the_default_folder_says_what_it_is(
    clip_folder: Path, mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = settings(clip_folder, mini_root, method="zero-shot")
    del plain["iterations"], plain["lr"]  # nothing is trained
    result = base_to_new("sun397", None, **plain)
    assert result["folder"] == str(Path("runs/sun397-base-to-new-zero-shot-2shot-seed1"))
    for row in result["results"]:
        assert row["accuracy"] == row["zero_shot_accuracy"]


def test_methods_that_know_no_other_classes(clip_folder: Path, mini_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method 'linear-probe': learns the classes that it saw"):
        base_to_new("dtd", tmp_path / "x", **settings(clip_folder, mini_root, method="linear-probe"))


def test_adapted_towers_are_the_run(clip_folder: Path, mini_root: Path, tmp_path: Path) -> None:
    run, metrics = fit_run("dtd", tmp_path / "run", **settings(clip_folder, mini_root))
    own = load_run(run, device="cpu")
    other = AdaptedTowers(run, device="cpu").classifier(own.classifier.class_names, [str(metrics.prompt)])
    check_same(own.classifier, other.classifier)
    images = [example.source for example in load_dataset("dtd", root=mini_root).test]
    torch.testing.assert_close(probabilities(own, images), probabilities(other, images))


# ---- targets of one's own, and places that are taken


def test_a_target_has_no_image_that_was_trained_on(clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "copies")
    (tmp_path / "one" / "red_square").mkdir(parents=True)
    turned = Image.open(photos / "red_square" / "0.png").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    turned.save(tmp_path / "one" / "red_square" / "0.png")
    given = settings(clip_folder, tmp_path) | {"root": None}
    to = [str(tmp_path / "copies"), str(tmp_path / "one")]
    cross_dataset(str(photos), tmp_path / "x", to=to, **given)
    copies, one = read(tmp_path / "x" / "copies.json"), read(tmp_path / "x" / "one.json")
    assert (copies["n_test"], copies["n_classes"]) == (
        36 - 6 - 6,
        3,
    )  # all that was not seen: nothing is held out
    assert any(note.startswith("12 images of 36 were left out") for note in copies["notes"])
    assert (one["n_test"], one["n_classes"]) == (1, 1)
    trained = tmp_path / "trained"
    for item in read(tmp_path / "x" / "source" / "split.json")["train"]:
        (trained / item["image"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / item["image"], trained / item["image"])
    with pytest.raises(DataError, match="trained or validated on all of its"):
        cross_dataset(str(photos), tmp_path / "y", to=[str(trained)], **given)


def test_targets_of_one_name(clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    given = settings(clip_folder, tmp_path) | {"root": None}
    for name in ("a/photos", "b/photos", "summary"):
        shutil.copytree(photos, tmp_path / name)
    both = [str(tmp_path / "a/photos"), str(tmp_path / "b/photos")]
    with pytest.raises(
        ConfigError, match=r"--to: '.*b.photos' and '.*a.photos' would both be written to photos\.json"
    ):
        cross_dataset(str(photos), tmp_path / "x", to=both, **given)
    summary = [str(tmp_path / "summary")]
    with pytest.raises(ConfigError, match=r"and the summary would both be written to summary\.json"):
        cross_dataset(str(photos), tmp_path / "x", to=summary, **given)
    assert not (tmp_path / "x").exists()


def test_a_folder_of_somebody_else(clip_folder: Path, mini_root: Path, tmp_path: Path) -> None:
    for name in ("summary.json", "new.json"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="this folder is not empty and holds no 'base'; choose another --out"):
        base_to_new("dtd", tmp_path, **settings(clip_folder, mini_root))
    with pytest.raises(RunError, match="holds no 'source'"):
        cross_dataset("imagenet", tmp_path, to=["dtd"], **settings(clip_folder, mini_root))
    assert names(tmp_path) == ["new.json", "summary.json"]
    assert {path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {"mine"}


def test_the_precision_of_the_run_is_that_of_its_targets(
    clip_folder: Path, mini_root: Path, tmp_path: Path
) -> None:
    given = settings(clip_folder, mini_root, precision="bf16")
    base_to_new("stanford_cars", tmp_path / "x", **given)
    assert read(tmp_path / "x" / "new.json")["precision"] == "bf16"
    assert not any("computed in" in note for note in read(tmp_path / "x" / "new.json")["notes"])


def test_what_went_wrong_in_training_stands_in_the_summary(
    clip_folder: Path, mini_root: Path, tmp_path: Path
) -> None:
    given = settings(clip_folder, mini_root, iterations=10) | {"lr": 1e-9}
    result = base_to_new("stanford_cars", tmp_path / "x", **given)
    assert any("The training loss stayed flat" in note for note in result["notes"])


# ---- prompts


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("coop", {"epochs": 2}),
        ("cocoop", {"epochs": 1, "batch_size": 8}),
        ("maple", {"epochs": 2}),
        ("full", {"iterations": 2}),
        ("peft", {"iterations": 2, "peft_config": '{"peft_type": "IA3", "feedforward_modules": []}'}),
    ],
)
def test_other_methods_know_new_classes(
    method: str, options: dict[str, Any], clip_folder: Path, mini_root: Path, tmp_path: Path
) -> None:
    common = {"root": str(mini_root), "model": str(clip_folder), "shots": 2, "seed": 1, "device": "cpu"}
    result = base_to_new("sun397", tmp_path / "new", method=method, **common, **options)
    plain = base_to_new("sun397", tmp_path / "plain", method="zero-shot", **common)
    for row, zero in zip(result["results"], plain["results"], strict=True):
        assert row["zero_shot_accuracy"] == zero["accuracy"]
    own = load_run(tmp_path / "new" / "base", device="cpu")
    towers = AdaptedTowers(tmp_path / "new" / "base", device="cpu")
    again = towers.classifier(own.classifier.class_names, [result["prompt"]])
    images = [example.source for example in load_dataset("sun397", root=mini_root).test[:6]]
    torch.testing.assert_close(probabilities(again, images), probabilities(own, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "method", sorted(name for name, method in METHODS.items() if method.prompts == "one")
)
def test_methods_without_ensembles(method: str) -> None:
    with pytest.raises(
        ConfigError, match=f"an ensemble of prompts needs .* not {re.escape(method)}: expected"
    ):
        fit_config(method=method, ensemble=("a {}.", "the {}."))


def test_an_ensemble_is_the_mean_of_unit_features(clip_folder: Path) -> None:
    clip = load_clip(str(clip_folder))
    names, templates = ["a cat", "a_dog"], ["a photo of a {}.", "art of the {}.", "{}"]
    expected = torch.zeros(2, 16, dtype=torch.float64)
    for template in templates:
        for row, name in enumerate(names):
            tokens, _ = tokenize(prompts([name], template), clip.tokenizer, clip.context_length)
            feature = class_features(clip.model, tokens)[0].double()
            expected[row] += feature / feature.norm()
    expected /= expected.norm(dim=1, keepdim=True)
    found = template_features(clip.model, clip, names, templates)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("given", "trained", "n_averaged"),
    [
        ({"prompt": ["a drawing of {}.", "art of {}."]}, "a drawing of {}.", 2),
        ({"prompts": "imagenet-7"}, "{} texture.", 7),
        ({"prompts": "imagenet-80", "prompt": "{}"}, "{}", 80),
        ({"prompt": "art of {}."}, "art of {}.", 0),
        ({"protocol": "clip-lora"}, "a photo of a {}.", 0),
        ({}, "{} texture.", 0),
    ],
)
def test_which_template_trains_and_which_predict(
    given: dict[str, Any], trained: str, n_averaged: int, clip_folder: Path, mini_root: Path, tmp_path: Path
) -> None:
    run, metrics = fit_run("dtd", tmp_path / "run", **settings(clip_folder, mini_root, **given))
    assert (metrics.prompt, len(metrics.ensemble)) == (trained, n_averaged)
    templates = metrics.ensemble or [trained]
    own = load_run(run, device="cpu").classifier
    check_same(own, AdaptedTowers(run, device="cpu").classifier(own.class_names, templates).classifier)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": "imagenet-9"}, "prompts 'imagenet-9': expected one of imagenet-7, imagenet-80"),
        (
            {"prompts": "imagenet-7", "prompt": ["{}", "a {}"]},
            "expected no more than one prompt beside it, not 2",
        ),
        ({"prompt": ["{}", "no place"]}, "prompt template 'no place' holds '{}' 0 times"),
        ({"protocol": "dassl"}, "protocol 'dassl': expected one of coop, clip-lora"),
    ],
)
def test_prompts_and_protocols_that_cannot_be(
    given: dict[str, Any], message: str, clip_folder: Path, mini_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_run("dtd", tmp_path / "run", **settings(clip_folder, mini_root, **given))
    assert not (tmp_path / "run").exists()


# ---- audit


def test_a_method_that_touches_the_test_part_fails(
    clip_folder: Path, mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[Any] = []
    real_prepare, real = runs.prepare, METHODS["block-lora"]

    def prepare(config: Any, dataset: Any, split: Any) -> Any:
        reached.extend([dataset, split])
        return real_prepare(config, dataset, split)

    def peeking(job: Any, own: Any) -> Any:
        for holder in reached:
            with pytest.raises(SealedTestError):
                list(holder.test)
        len(reached[1].test)
        return real.fit(job, own)

    monkeypatch.setattr(runs, "prepare", prepare)
    monkeypatch.setitem(METHODS, "block-lora", replace(real, fit=peeking))
    with pytest.raises(SealedTestError, match="the test images were touched before training had ended"):
        fit_run("dtd", tmp_path / "run", **settings(clip_folder, mini_root))
    assert not (tmp_path / "run").exists()


def test_validation_and_test_images_come_from_their_own_parts(
    clip_folder: Path, mini_root: Path, tmp_path: Path
) -> None:
    run, metrics = fit_run("imagenet", tmp_path / "run", **settings(clip_folder, mini_root))
    by = {name: choice.by for name, choice in metrics.choices.items()}
    assert [name for name, how in by.items() if how == "validation"] == ["temperature"]
    split = read(run / "split.json")
    assert all(item["image"].startswith("train/") for item in split["val"])
    assert all(item["image"].startswith("val/") for item in split["test"])


# ---- what is there


def test_what_is_there_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mini.write_split_set(tmp_path, "oxford_pets")
    code, out, _ = call(capsys, monkeypatch, "datasets", "pets", "--root", tmp_path)
    assert code == 1  # three of its 37 classes
    assert "there: images, split_zhou_OxfordPets.json" in out
    assert "missing: annotations/trainval.txt, annotations/test.txt" in out
    assert "images: 54 train, 15 val, 9 test; 3 classes" in out
    assert "usable, but not whole: OxfordPets has 37 classes, but 3 are here" in out
    gone = mini.split_entries("oxford_pets")["val"][0][0]
    (folder / "images" / str(gone)).unlink()
    code, out, _ = call(capsys, monkeypatch, "datasets", "pets", "--root", tmp_path)
    assert (code, f"missing image: {gone}" in out, "1 image missing" in out) == (1, True, True)
    shutil.rmtree(folder)
    code, out, _ = call(capsys, monkeypatch, "datasets", "oxford_pets", "--root", tmp_path)
    assert code == 1
    for words in (
        "oxford_pets or OxfordPets/",
        "split_zhou_OxfordPets.json",
        "robots.ox.ac.uk",
        "folder: not there",
    ):
        assert words in out


def test_all_of_them(
    mini_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, "datasets")
    assert (code, len(out.splitlines())) == (0, 18)
    assert "digits           digits             10 classes  bundled, works offline" in out
    assert "sun397           SUN397            397 classes" in out
    code, out, _ = call(capsys, monkeypatch, "datasets", "--root", mini_root, "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["problem"] for row in rows] == [None] * 15
    assert {row["name"]: row["complete"] for row in rows} == {
        row["name"]: row["name"] == "eurosat" for row in rows
    }
    code, out, _ = call(capsys, monkeypatch, "datasets", "eurosat", "--root", mini_root)
    assert (code, out.splitlines()[-1]) == (0, "complete")
    code, out, _ = call(capsys, monkeypatch, "datasets", "digits")
    assert (code, "776 train, 130 val, 891 test" in out, "blocklora fit digits" in out) == (0, True, True)
    code, out, _ = call(capsys, monkeypatch, "datasets", "--json")
    rows = json.loads(out)
    assert len(rows) == 18
    assert all(row.keys() >= {"name", "title", "n_classes", "prompt", "page", "expected"} for row in rows)
    code, _, err = call(capsys, monkeypatch, "datasets", "eurosta")
    assert code == 1
    assert "did you mean 'eurosat'?" in err


def test_evaluate_on_a_set_by_name(clip_folder: Path, mini_root: Path, tmp_path: Path) -> None:
    run, _ = fit_run("imagenet", tmp_path / "run", **settings(clip_folder, mini_root))
    found = evaluate_run(
        run, "imagenetv2", root=str(mini_root), device="cpu"
    )  # two classes of one name, same order
    assert (found.evaluation.n_classes, found.evaluation.n_test) == (5, 15)
    with pytest.raises(DataError, match="imagenet_a: 'missile' is the name of 2 classes of the run"):
        evaluate_run(run, "imagenet_a", root=str(mini_root), device="cpu")
