"""Fit, predict, score, save and load; test_estimator_given.py and test_estimator_sklearn.py have the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from blocklora import ConfigError, DataError, FewShotClassifier, ImageError, ModelError, RunError
from blocklora.classifier import NOTHING_KEPT, FeatureStore, encode
from blocklora.clip import class_features, load_clip, tokenize
from blocklora.core.device import Compute
from blocklora.data import prompts
from blocklora.methods import METHODS

FAST: dict[str, Any] = {"iterations": 4, "lr": 1e-2, "batch_size": 6, "device": "cpu"}


def listed(photos: Path) -> tuple[list[Path], list[str]]:
    paths = sorted(photos.glob("*/*.png"))
    return paths, [path.parent.name for path in paths]


def features(
    classifier: FewShotClassifier, images: list[Path], store: FeatureStore = NOTHING_KEPT, **how: Any
) -> torch.Tensor:
    named = [(str(path), path) for path in images]
    compute = Compute(torch.device("cpu"), "fp32")
    return encode(classifier.classifier_, named, compute, store=store, **how).features


@pytest.fixture(scope="module")
def fitted(clip_folder: Path, photos: Path) -> FewShotClassifier:
    return FewShotClassifier(model=clip_folder, shots=4, seed=1, **FAST).fit(*listed(photos))


def test_verbs_agree(fitted: FewShotClassifier, photos: Path) -> None:
    paths, labels = listed(photos)
    probabilities = fitted.predict_proba(paths)
    assert fitted.classes_.tolist() == ["blue-cross", "green disc", "red_square"]
    assert probabilities.shape == (36, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    predicted = fitted.predict(paths)
    assert predicted.tolist() == fitted.classes_[probabilities.argmax(axis=1)].tolist()
    right = predicted == np.array(labels)
    assert fitted.score(paths, labels) == np.mean(right)
    weights = np.arange(36)
    assert fitted.score(paths, labels, weights) == pytest.approx(np.average(right, weights=weights))
    assert fitted.temperature_ > 0
    assert fitted.seconds_ > 0
    assert fitted.classifier_.prompts[2] == "a photo of a red square."


def test_no_images_are_no_predictions(fitted: FewShotClassifier) -> None:
    assert fitted.predict_proba([]).shape == (0, 3)
    assert fitted.predict_proba([]).dtype == np.float64
    assert fitted.predict([]).shape == (0,)
    assert fitted.predict([]).dtype == fitted.classes_.dtype


def test_probabilities_are_the_formula(fitted: FewShotClassifier, photos: Path) -> None:
    path = listed(photos)[0][5]
    feature = features(fitted, [path])[0].double()
    classifier = fitted.classifier_
    classes = classifier.head.tensors["class_features"].double()
    logits = classifier.head.numbers["scale"] * (classes @ feature) / classifier.temperature
    expected = (logits - logits.logsumexp(0)).exp().numpy()
    np.testing.assert_allclose(fitted.predict_proba([path])[0], expected, rtol=1e-9)


@pytest.mark.parametrize("method", ["block-lora", "layer-norm", "zero-shot"])
def test_features_on_disk_change_nothing_but_time(
    method: str, clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    settings = {} if method == "zero-shot" else {"iterations": 2, "lr": 1e-2}
    classifier = FewShotClassifier(model=clip_folder, method=method, shots=1, device="cpu", **settings)
    classifier.fit(*listed(photos))
    images = listed(photos)[0][:5]
    adapted = features(classifier, images)
    both = features(classifier, images, zero_shot=True)
    assert torch.equal(adapted, both[:, 0])
    assert torch.equal(both[:, 0], both[:, 1]) == (method == "zero-shot")
    store = FeatureStore(tmp_path / "features")
    for _ in range(2):
        assert torch.equal(features(classifier, images, store), adapted)
        assert torch.equal(features(classifier, images, store, zero_shot=True), both)
    assert len(list((tmp_path / "features").iterdir())) == 1
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert torch.equal(features(classifier, [*images, broken], store, zero_shot=True), both)
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_numbers_as_labels(clip_folder: Path, photos: Path) -> None:
    paths, labels = listed(photos)
    numbers = [{"red_square": 7, "green disc": 3, "blue-cross": 5}[label] for label in labels]
    words = {7: "red square", 3: "green disc", 5: "blue cross"}
    classifier = FewShotClassifier(model=clip_folder, class_names=words, method="zero-shot", device="cpu")
    classifier.fit(paths, numbers)
    assert classifier.classes_.tolist() == [3, 5, 7]
    assert classifier.classifier_.prompts[0] == "a photo of a green disc."
    assert set(classifier.predict(paths).tolist()) <= {3, 5, 7}
    assert classifier.notes_[-1].startswith("no validation images were left")


def test_save_and_load_give_the_same_bits(fitted: FewShotClassifier, photos: Path, tmp_path: Path) -> None:
    paths, _ = listed(photos)
    fitted.save(tmp_path / "kept")
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == [
        "adapter", "class_features.safetensors", "classifier.json", "evidence.safetensors",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "kept" / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    loaded = FewShotClassifier.load(tmp_path / "kept", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(paths), fitted.predict_proba(paths))
    assert loaded.classes_.tolist() == fitted.classes_.tolist()
    record = json.loads((tmp_path / "kept" / "classifier.json").read_text(encoding="utf-8"))
    assert record["image_tower_sha256"] == fitted.classifier_.base.sha256
    assert {"blocklora", "torch", "peft"} <= set(record["versions"])
    loaded.save(str(tmp_path / "again"))
    again = FewShotClassifier.load(str(tmp_path / "again"), device="cpu")
    np.testing.assert_array_equal(again.predict_proba(paths), fitted.predict_proba(paths))
    assert again.get_params() == loaded.get_params()


def test_a_home_is_expanded(
    fitted: FewShotClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    fitted.save("~/kept")
    assert (tmp_path / "kept" / "classifier.json").is_file()
    assert FewShotClassifier.load("~/kept").classes_.tolist() == fitted.classes_.tolist()


@pytest.mark.parametrize(
    "labels", [("a", "b", "öäü"), (3, 1, 2), (False, True, True), (0.0, 1.0, 2.0)], ids=repr
)
def test_labels_keep_their_type(
    labels: tuple[Any, ...], clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    paths = listed(photos)[0][::12]
    classifier = FewShotClassifier(model=clip_folder, method="zero-shot", device="cpu").fit(paths, labels)
    classifier.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, device="cpu")
    assert classifier.classes_.tolist() == loaded.classes_.tolist() == sorted(set(labels))
    assert classifier.classes_.dtype == loaded.classes_.dtype == np.asarray(labels).dtype
    assert loaded.predict([]).dtype == loaded.predict(paths).dtype == np.asarray(labels).dtype


def test_a_fresh_process_needs_neither_text_tower_nor_training_images(
    fitted: FewShotClassifier, photos: Path, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "kept")
    path = listed(photos)[0][0]
    code = f"""
import torch
from transformers.models.clip import modeling_clip
def refuse(*a, **k): raise AssertionError("the text tower was built")
modeling_clip.CLIPTextTransformer = modeling_clip.CLIPTextModel = refuse
from blocklora import FewShotClassifier
classifier = FewShotClassifier.load({str(tmp_path / "kept")!r}, device="cpu")
print(classifier.predict_proba([{str(path)!r}])[0].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), fitted.predict_proba([path])[0], rtol=1e-5)


@pytest.mark.parametrize("towers", ["text", "vision"])
@pytest.mark.parametrize("method", ["block-lora", "clip-lora"])
def test_an_adapter_in_one_tower_is_saved(
    clip_folder: Path, photos: Path, tmp_path: Path, method: str, towers: str
) -> None:
    paths, labels = listed(photos)
    classifier = FewShotClassifier(model=clip_folder, method=method, shots=1, towers=towers, **FAST)
    classifier.fit(paths, labels).save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(paths[:5]), classifier.predict_proba(paths[:5]))


DORA = Path(__file__).parents[1] / "examples" / "dora.json"
# A few steps of every method; the settings that a test needs beside the published ones.
QUICK: dict[str, dict[str, Any]] = {
    "block-lora": {"iterations": 3, "lr": 1e-2},
    "block-lora-gda": {"iterations": 3, "lr": 1e-2},
    "auto": {"seconds": 1},
    "clip-lora": {"iterations": 3, "lr": 1e-2},
    "zero-shot": {},
    "linear-probe": {},
    "zero-shot-probe": {"epochs": 4, "passes": 2},
    "tip-adapter": {"passes": 2},
    "tip-adapter-f": {"passes": 2, "epochs": 3, "lr": 1e-2},
    "clip-adapter": {"passes": 2, "epochs": 3, "lr": 1.0},
    "taskres": {"passes": 2, "epochs": 3, "lr": 0.1},
    "lp++": {"epochs": 12},
    "prototypes": {},
    "gda": {},
    "proker": {},
    "prolip": {"passes": 2, "epochs": 3, "lr": 1e-2},
    "layer-norm": {"iterations": 3, "lr": 1e-2},
    "2sfs": {"iterations": 5, "lr": 1e-2},
    "full": {"iterations": 3, "lr": 1e-3},
    "coop": {"epochs": 3, "n_context": 4, "lr": 0.1},
    "kgcoop": {"epochs": 3, "lr": 0.1},
    "prograd": {"epochs": 3, "n_context": 4, "lr": 0.1},
    "cocoop": {"epochs": 2, "batch_size": 4, "lr": 0.1},
    "maple": {"epochs": 2, "lr": 0.1},
    "promptsrc": {"epochs": 2, "lr": 0.1},
    "peft": {"iterations": 3, "lr": 1e-2, "peft_config": DORA},
}


def test_every_method_is_saved_by_these_tests() -> None:
    assert set(QUICK) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_saves_loads_predicts_and_is_fitted_again(
    clip_folder: Path, photos: Path, tmp_path: Path, method: str
) -> None:
    paths, labels = listed(photos)
    base: dict[str, Any] = {"model": clip_folder, "device": "cpu"}
    classifier = FewShotClassifier(method=method, seed=3, shots=2, **base, **QUICK[method])
    probabilities = classifier.fit(paths, labels).predict_proba(paths)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    classifier.save(tmp_path / "kept")
    loaded = FewShotClassifier.load(tmp_path / "kept", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(paths), probabilities)
    with torch.autocast("cpu", torch.bfloat16):  # the caller's own changes nothing
        np.testing.assert_array_equal(loaded.predict_proba(paths), probabilities)

    zero_shot = FewShotClassifier(method="zero-shot", **base).fit(paths, labels)
    both = features(loaded, paths[:4], zero_shot=True)
    torch.testing.assert_close(both[:, 1], features(zero_shot, paths[:4]), rtol=1e-5, atol=1e-6)
    assert (
        loaded.classifier_.zero_shot_labels(both[:, 1]).tolist()
        == zero_shot.predict_proba(paths[:4]).argmax(axis=1).tolist()
    )
    np.testing.assert_array_equal(loaded.fit(paths, labels).predict_proba(paths), probabilities)


def test_a_loaded_one_has_the_parameters_of_the_fit(clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    paths, labels = listed(photos)
    paths, labels = paths[:24], labels[:24]
    numbers = [len(label.replace("-", "")) for label in labels]  # 9 or 10
    given: dict[str, Any] = {
        "model": str(clip_folder),
        "method": "tip-adapter",
        "shots": 3,
        "seed": 5,
        "prompt": "art of the {}.",
        "ensemble": ("a {}.", "the {}."),
        "class_names": {9: "blue cross"},
        "precision": "bf16",
        "passes": 2,
    }
    classifier = FewShotClassifier(device="cpu", **given).fit(paths, numbers)
    classifier.set_params(seed=6, method="coop")  # for another fit; what is saved is this one
    classifier.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, device="cpu")
    assert {name: loaded.get_params()[name] for name in given} == given
    expected = classifier.predict_proba(paths)
    np.testing.assert_array_equal(loaded.fit(paths, numbers).predict_proba(paths), expected)


def test_a_method_of_ones_own_is_loaded_where_it_is_unknown(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, labels = listed(photos)
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "mine", METHODS["linear-probe"])
        classifier = FewShotClassifier(model=clip_folder, method="mine", c=2.0, device="cpu")
        classifier.fit(paths, labels).save(tmp_path / "kept")
    loaded = FewShotClassifier.load(tmp_path / "kept", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(paths), classifier.predict_proba(paths))
    loaded.save(tmp_path / "again")
    again = FewShotClassifier.load(tmp_path / "again", device="cpu")
    assert again.get_params() == loaded.get_params()
    with pytest.raises(ConfigError, match="method 'mine': expected one of block-lora"):
        again.fit(paths, labels)


def test_a_base_model_that_moved(make_clip: Callable[..., Path], photos: Path, tmp_path: Path) -> None:
    base = make_clip(tmp_path / "base", seed=1)
    paths, labels = listed(photos)
    classifier = FewShotClassifier(model=base, method="zero-shot", device="cpu").fit(paths, labels)
    classifier.save(tmp_path / "kept")
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=r"base: there is no such folder .* load\(path, model="):
        FewShotClassifier.load(tmp_path / "kept")
    loaded = FewShotClassifier.load(tmp_path / "kept", model=moved, device="cpu")
    expected = classifier.predict_proba(paths)
    np.testing.assert_array_equal(loaded.predict_proba(paths), expected)
    np.testing.assert_array_equal(loaded.fit(paths, labels).predict_proba(paths), expected)
    make_clip(base, seed=2)
    with pytest.raises(RunError, match=r"its base model .*base has another image tower than the one it was"):
        FewShotClassifier.load(tmp_path / "kept")


def test_damaged_folders(fitted: FewShotClassifier, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder; expected a RUN folder"):
        FewShotClassifier.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"holds no classifier\.json, so it is not a finished run"):
        FewShotClassifier.load(tmp_path)
    kept = tmp_path / "kept"
    fitted.save(kept)
    record = json.loads((kept / "classifier.json").read_text(encoding="utf-8"))
    (kept / "classifier.json").write_text(json.dumps(record | {"format": 99}), encoding="utf-8")
    with pytest.raises(RunError, match=r"format 99 .* upgrade blocklora"):
        FewShotClassifier.load(kept)
    less = {key: value for key, value in record.items() if key != "text_side"}
    (kept / "classifier.json").write_text(json.dumps(less), encoding="utf-8")
    with pytest.raises(RunError, match=r"this classifier is damaged \(.*text_side"):
        FewShotClassifier.load(kept)
    (kept / "classifier.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="this classifier is damaged"):
        FewShotClassifier.load(kept)
    fitted.save(kept)
    (kept / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="this adapter cannot be used"):
        FewShotClassifier.load(kept)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match="this is a file; expected a folder"):
        fitted.save(tmp_path / "file")


def test_a_full_disk_leaves_the_old_classifier(
    fitted: FewShotClassifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    adapter = type(fitted.classifier_.adapter)
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "save_pretrained", full)
        with pytest.raises(RunError, match=r"adapter: cannot be written \(I/O error: No space left"):
            fitted.save(tmp_path / "new")
    assert not list(tmp_path.glob("new/*"))
    path = listed(photos)[0][0]
    fitted.save(tmp_path / "kept")
    with monkeypatch.context() as patch:
        patch.setattr("blocklora.classifier.record.write_json", no_space)
        with pytest.raises(OSError, match="No space left"):
            fitted.save(tmp_path / "kept")
    loaded = FewShotClassifier.load(tmp_path / "kept", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba([path]), fitted.predict_proba([path]))


def test_prompts_that_are_too_long_are_named(clip_folder: Path, photos: Path) -> None:
    prompt = "a photo of a {}, " + "very " * 40
    classifier = FewShotClassifier(model=clip_folder, method="zero-shot", prompt=prompt, device="cpu")
    classifier.fit(*listed(photos))
    assert any("3 prompts of more than 24 tokens were cut" in note for note in classifier.notes_)


@pytest.mark.parametrize("method", ["zero-shot", "tip-adapter"])
def test_an_ensemble_predicts_and_is_built_on(clip_folder: Path, photos: Path, method: str) -> None:
    clip = load_clip(str(clip_folder))
    templates = ("a photo of a {}.", "art of the {}.")
    names = ["blue-cross", "green disc", "red_square"]
    each = [
        class_features(clip.model, tokenize(prompts(names, template), clip.tokenizer, 24)[0])
        for template in templates
    ]
    mean = torch.nn.functional.normalize(each[0] + each[1], dim=1)
    given = FewShotClassifier(model=clip_folder, shots=2, seed=1, method=method, ensemble=templates)
    classifier = given.fit(*listed(photos)).classifier_
    torch.testing.assert_close(classifier.head.tensors["class_features"], mean)
    torch.testing.assert_close(classifier.zero_shot_features, mean)
    with pytest.raises(ConfigError, match="needs a method that reads prompts as they are, not coop"):
        FewShotClassifier(method="coop", ensemble=templates)


def test_zero_shot_features_are_those_without_the_adapter(
    fitted: FewShotClassifier, clip_folder: Path, photos: Path
) -> None:
    paths = listed(photos)[0][:4]
    plain = FewShotClassifier(model=clip_folder, method="zero-shot", device="cpu").fit(*listed(photos))
    both = features(fitted, paths, zero_shot=True)
    torch.testing.assert_close(both[:, 1], features(plain, paths), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(both[:, 0], both[:, 1], atol=1e-4)


def test_a_second_classifier_leaves_the_first_alone(fitted: FewShotClassifier, photos: Path) -> None:
    path = listed(photos)[0][0]
    before = fitted.predict_proba([path])
    FewShotClassifier(device="cpu", precision="bf16")
    assert fitted.classifier_.precision == "fp32"
    np.testing.assert_array_equal(fitted.predict_proba([path]), before)


def test_a_fit_that_fails_leaves_the_old_one(clip_folder: Path, photos: Path) -> None:
    paths, labels = listed(photos)
    classifier = FewShotClassifier(model=clip_folder, method="zero-shot", device="cpu").fit(paths, labels)
    before = classifier.predict_proba(paths)
    with pytest.raises(ImageError, match=r"nope\.png: there is no such file"):
        classifier.fit([*paths, "nope.png"], [*labels, labels[0]])
    with pytest.raises(DataError, match="36 images but 2 labels"):
        classifier.fit(paths, labels[:2])
    assert classifier.classes_.tolist() == ["blue-cross", "green disc", "red_square"]
    np.testing.assert_array_equal(classifier.predict_proba(paths), before)


def test_progress_is_said_where_it_is_asked_for(
    clip_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = FewShotClassifier(model=clip_folder, shots=2, **FAST)
    classifier.fit(*listed(photos))
    assert capsys.readouterr() == ("", "")
    classifier.set_params(verbose=True).fit(*listed(photos))
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines()[-1].startswith("step 4 of 4: loss ")
