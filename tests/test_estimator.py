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
from PIL import Image
from safetensors import SafetensorError

from blocklora import FewShotClassifier
from blocklora.classifier import store as feature_cache
from blocklora.clip import class_features, load_clip, tokenize
from blocklora.core.errors import ConfigError, DataError, ImageError, ModelError, RunError
from blocklora.data import prompts
from blocklora.methods import METHODS
from blocklora.methods.frozen import on_features

FAST: dict[str, Any] = {"iterations": 4, "lr": 1e-2, "batch_size": 6, "device": "cpu"}


def listed(photos: Path) -> tuple[list[Path], list[str]]:
    paths = sorted(photos.glob("*/*.png"))
    return paths, [path.parent.name for path in paths]


@pytest.fixture(scope="module")
def fitted(clip_folder: Path, photos: Path) -> FewShotClassifier:
    return FewShotClassifier(model=str(clip_folder), shots=4, seed=1, **FAST).fit(*listed(photos))


def test_verbs_agree(fitted: FewShotClassifier, photos: Path) -> None:
    paths, labels = listed(photos)
    probabilities = fitted.predict_proba(paths)
    assert fitted.classes_.tolist() == ["blue-cross", "green disc", "red_square"]
    assert probabilities.shape == (36, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    predicted = fitted.predict(paths)
    assert predicted.tolist() == fitted.classes_[probabilities.argmax(axis=1)].tolist()
    assert fitted.score(paths, labels) == np.mean(predicted == np.array(labels))
    assert fitted.temperature_ > 0
    assert fitted.fitted.prompts[2] == "a photo of a red square."
    assert fitted.predict_proba([]).shape == (0, 3)


def test_probabilities_are_the_formula(fitted: FewShotClassifier, photos: Path) -> None:
    path = listed(photos)[0][5]
    features = fitted.encode([("x", path)]).features.double()
    saved = fitted.fitted
    class_features = saved.head.tensors["class_features"].double()
    logits = saved.head.numbers["scale"] * (class_features @ features[0]) / saved.temperature
    expected = (logits - logits.logsumexp(0)).exp().numpy()
    np.testing.assert_allclose(fitted.predict_proba([path])[0], expected, rtol=1e-9)


@pytest.mark.parametrize("method", ["block-lora", "layer-norm", "zero-shot"])
def test_features_on_disk_change_nothing_but_time(
    method: str, clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {} if method == "zero-shot" else {"iterations": 2, "lr": 1e-2}
    classifier = FewShotClassifier(model=str(clip_folder), method=method, shots=1, device="cpu", **settings)
    classifier.fit(*listed(photos))
    pictures = [(path.name, path) for path in listed(photos)[0][:5]]
    adapted = classifier.encode(pictures).features
    both = classifier.encode(pictures, zero_shot=True).features
    assert torch.equal(adapted, both[:, 0])
    assert torch.equal(both[:, 0], both[:, 1]) == (method == "zero-shot")
    monkeypatch.setenv("BLOCKLORA_FEATURES", str(tmp_path / "features"))
    for _ in range(2):
        assert torch.equal(classifier.encode(pictures).features, adapted)
        assert torch.equal(classifier.encode(pictures, zero_shot=True).features, both)
    assert len(list((tmp_path / "features").iterdir())) == 1
    known = classifier.encode(pictures, zero_shot=True)
    assert (known.kept, known.unreadable) == ([0, 1, 2, 3, 4], [])
    assert classifier.encode([], zero_shot=True).kept == []
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    found = classifier.encode([*pictures, ("broken.png", broken)], zero_shot=True)
    assert torch.equal(found.features, both)
    assert [bad.image for bad in found.unreadable] == ["broken.png"]
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_features_that_others_computed_count_as_time(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKLORA_FEATURES", str(tmp_path))
    keep = feature_cache.keep
    monkeypatch.setattr(on_features, "keep", lambda what, features, _: keep(what, features, 1000.0))
    seconds = []
    for _ in range(2):
        classifier = FewShotClassifier(model=str(clip_folder), method="linear-probe", shots=2, device="cpu")
        seconds.append(classifier.fit(*listed(photos)).seconds_)
    assert seconds[0] < 1000 < seconds[1]


def test_pictures_of_every_kind(fitted: FewShotClassifier, photos: Path) -> None:
    path = listed(photos)[0][0]
    picture = Image.open(path)
    kinds = [path, str(path), picture, np.asarray(picture.convert("RGB"))]
    rows = [fitted.predict_proba([kind]) for kind in kinds]
    assert all((row == rows[0]).all() for row in rows)
    np.testing.assert_allclose(fitted.predict_proba(kinds), np.concatenate(rows), atol=1e-6)
    grey = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(fitted.predict_proba([grey]), fitted.predict_proba([picture.convert("L")]))


def test_numbers_as_labels(clip_folder: Path, photos: Path) -> None:
    paths, labels = listed(photos)
    numbers = [{"red_square": 7, "green disc": 3, "blue-cross": 5}[label] for label in labels]
    words = {7: "red square", 3: "green disc", 5: "blue cross"}
    classifier = FewShotClassifier(
        model=str(clip_folder), class_names=words, method="zero-shot", device="cpu"
    )
    classifier.fit(paths, numbers)
    assert classifier.classes_.tolist() == [3, 5, 7]
    assert classifier.fitted.prompts[0] == "a photo of a green disc."
    assert set(classifier.predict(paths).tolist()) <= {3, 5, 7}
    assert classifier.notes_[-1].startswith("no validation pictures were left")


def test_save_and_load_give_the_same_bits(fitted: FewShotClassifier, photos: Path, tmp_path: Path) -> None:
    paths, _ = listed(photos)
    fitted.save(tmp_path / "kept")
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == [
        "adapter", "class_features.safetensors", "classifier.json",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "kept" / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    loaded = FewShotClassifier.load(tmp_path / "kept", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(paths), fitted.predict_proba(paths))
    assert loaded.classes_.tolist() == fitted.classes_.tolist()
    record = json.loads((tmp_path / "kept" / "classifier.json").read_text(encoding="utf-8"))
    assert record["preprocessing"]["crop_size"] == {"height": 32, "width": 32}
    assert {"blocklora", "torch", "peft"} <= set(record["versions"])
    loaded.save(tmp_path / "again")
    again = FewShotClassifier.load(tmp_path / "again", device="cpu")
    np.testing.assert_array_equal(again.predict_proba(paths), fitted.predict_proba(paths))


def test_a_fresh_process_needs_neither_text_tower_nor_training_pictures(
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
    classifier = FewShotClassifier(model=str(clip_folder), method=method, shots=1, towers=towers, **FAST)
    classifier.fit(paths, labels).save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path, device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(paths[:5]), classifier.predict_proba(paths[:5]))


DORA = Path(__file__).parents[1] / "examples" / "dora.json"
# A few steps of every method; the settings that a test needs beside the published ones.
QUICK: dict[str, dict[str, Any]] = {
    "block-lora": {"iterations": 3, "lr": 1e-2},
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
    "peft": {"iterations": 3, "lr": 1e-2, "peft_config": str(DORA)},
}


def test_every_method_is_saved_by_these_tests() -> None:
    assert set(QUICK) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_saves_loads_and_predicts(
    clip_folder: Path, photos: Path, tmp_path: Path, method: str
) -> None:
    paths, labels = listed(photos)
    settings: dict[str, Any] = {"model": str(clip_folder), "method": method, "seed": 3, "device": "cpu"}
    classifier = FewShotClassifier(shots=2, **settings, **QUICK[method]).fit(paths, labels)
    probabilities = classifier.predict_proba(paths)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    classifier.save(tmp_path / "kept")
    loaded = FewShotClassifier.load(tmp_path / "kept", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(paths), probabilities)
    again = FewShotClassifier(shots=2, **settings, **QUICK[method]).fit(paths, labels)
    np.testing.assert_array_equal(again.predict_proba(paths), probabilities)

    zero_shot = FewShotClassifier(**(settings | {"method": "zero-shot"})).fit(paths, labels)
    both = loaded.encode([(str(path), path) for path in paths[:4]], zero_shot=True).features
    plain = zero_shot.encode([(str(path), path) for path in paths[:4]]).features
    torch.testing.assert_close(both[:, 1], plain, rtol=1e-5, atol=1e-6)
    assert (
        loaded.fitted.zero_shot_labels(both[:, 1]).tolist()
        == zero_shot.predict_proba(paths[:4]).argmax(axis=1).tolist()
    )
    with pytest.raises(ConfigError, match="this classifier was loaded and does not know its settings"):
        loaded.fit(paths, labels)


def test_the_base_model_must_be_the_same(
    make_clip: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    base = make_clip(tmp_path / "base", seed=1)
    FewShotClassifier(model=str(base), method="zero-shot").fit(*listed(photos)).save(tmp_path / "kept")
    make_clip(base, seed=2)
    with pytest.raises(RunError, match=r"the base model '.*base' has other weights than when"):
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
    with pytest.raises(RunError, match=r"this classifier is damaged \(.*has no text_side"):
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


def test_a_full_disk_while_saving(
    fitted: FewShotClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(type(fitted.fitted.model), "save_pretrained", full)
    with pytest.raises(RunError, match=r"adapter: cannot be written \(I/O error: No space left"):
        fitted.save(tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_wrong_use(clip_folder: Path, photos: Path, fitted: FewShotClassifier, tmp_path: Path) -> None:
    paths, labels = listed(photos)
    with pytest.raises(
        ConfigError, match="method 'magic': expected one of block-lora, clip-lora, zero-shot, "
    ):
        FewShotClassifier(method="magic")
    with pytest.raises(ConfigError, match="unknown option 'rank': expected some of iterations, "):
        FewShotClassifier(rank=3)
    with pytest.raises(ConfigError, match="not fitted yet"):
        FewShotClassifier().predict(paths)
    with pytest.raises(DataError, match="36 images but 2 labels"):
        FewShotClassifier().fit(paths, labels[:2])
    with pytest.raises(DataError, match="1 class; a classifier needs two or more"):
        FewShotClassifier().fit(paths[:3], labels[:3])
    with pytest.raises(ModelError, match="cannot be read"):
        FewShotClassifier(model=str(tmp_path)).fit(paths, labels)
    broken = tmp_path / "broken.png"
    broken.write_text("no picture", encoding="utf-8")
    with pytest.raises(ImageError, match=r"broken\.png.*\(2 pictures in all\)"):
        fitted.predict([paths[0], broken, broken])
    with pytest.raises(DataError, match=r"no readable training picture for class 'x'.*broken\.png"):
        FewShotClassifier(model=str(clip_folder)).fit([*paths, broken], [*labels, "x"])


def test_an_unreadable_training_picture_is_left_out_and_named(
    clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no picture", encoding="utf-8")
    paths, labels = listed(photos)
    classifier = FewShotClassifier(model=str(clip_folder), method="zero-shot", device="cpu")
    classifier.fit([broken, *paths], [labels[0], *labels])
    assert [bad.image for bad in classifier.unreadable_] == [str(broken)]


def test_prompts_that_are_too_long_are_named(clip_folder: Path, photos: Path) -> None:
    prompt = "a photo of a {}, " + "very " * 40
    classifier = FewShotClassifier(model=str(clip_folder), method="zero-shot", prompt=prompt, device="cpu")
    classifier.fit(*listed(photos))
    assert any("3 prompts have more than 24 tokens and were cut" in note for note in classifier.notes_)


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
    given = FewShotClassifier(model=str(clip_folder), shots=2, seed=1, method=method, ensemble=templates)
    saved = given.fit(*listed(photos)).fitted
    torch.testing.assert_close(saved.head.tensors["class_features"], mean)
    torch.testing.assert_close(saved.zero_shot_features, mean)
    with pytest.raises(ConfigError, match="needs a method that reads prompts as they are, not coop"):
        FewShotClassifier(method="coop", ensemble=templates)


def test_zero_shot_features_are_those_without_the_adapter(
    fitted: FewShotClassifier, clip_folder: Path, photos: Path
) -> None:
    plain = FewShotClassifier(model=str(clip_folder), method="zero-shot", device="cpu").fit(*listed(photos))
    named = [(str(path), path) for path in listed(photos)[0][:4]]
    both = fitted.encode(named, zero_shot=True).features
    torch.testing.assert_close(both[:, 1], plain.encode(named).features, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(both[:, 0], both[:, 1], atol=1e-4)
    assert (
        fitted.fitted.zero_shot_labels(both[:, 1]).tolist()
        == plain.predict_proba([path for _, path in named]).argmax(axis=1).tolist()
    )


def test_a_half_saved_classifier_is_not_loaded(
    fitted: FewShotClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted.save(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("blocklora.classifier.save.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        fitted.save(tmp_path)
    with pytest.raises(RunError, match=r"holds no classifier\.json"):
        FewShotClassifier.load(tmp_path, device="cpu")


def test_score_needs_one_label_an_image(fitted: FewShotClassifier, photos: Path) -> None:
    paths, labels = listed(photos)
    with pytest.raises(DataError, match="36 images but 1 labels"):
        fitted.score(paths, labels[:1])


def test_a_second_classifier_leaves_the_first_alone(fitted: FewShotClassifier, photos: Path) -> None:
    path = listed(photos)[0][0]
    before = fitted.predict_proba([path])
    FewShotClassifier(device="cpu", precision="bf16")
    assert fitted.precision == "fp32"
    np.testing.assert_array_equal(fitted.predict_proba([path]), before)
