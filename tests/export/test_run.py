"""An export is whole or not there; it says what it is; and it is refused where it would answer otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from command import call
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from blocklora import FewShotClassifier
from blocklora.core.errors import ConfigError, RunError
from blocklora.export import check
from blocklora.export.check import Agreement, Tolerance, agreement, images_to_check
from blocklora.export.run import export_run
from blocklora.export.sets import set_thresholds


def props(path: Path) -> dict[str, str]:
    """Return a model's metadata."""
    return {prop.key: prop.value for prop in onnx.load(path, load_external_data=False).metadata_props}


def test_a_folder_says_what_it_is(exported: Callable[..., Path], run: Path) -> None:
    folder = exported("onnx")
    facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    classifier = FewShotClassifier.load(run, device="cpu")
    assert facts["labels"] == classifier.classes_.tolist()
    assert facts["temperature"] == classifier.temperature_
    assert (facts["format"], facts["precision"], facts["version"]) == ("onnx", "fp32", 1)
    assert facts["check"]["source"] == "validation"
    assert facts["check"]["top_1"] == 1.0
    assert facts["preprocess"]["side"] == 32
    for name in ("image.onnx", "pixels.onnx"):
        told = props(folder / name)
        assert {key: told[key] for key in ("format", "method")} == {"format": "onnx", "method": "block-lora"}
        assert json.loads(told["class_names"]) == facts["class_names"]
        assert json.loads(told["temperature"]) == facts["temperature"]


def test_models_hold_nothing_of_this_machine(exported: Callable[..., Path]) -> None:
    for name in ("image.onnx", "pixels.onnx"):
        content = (exported("onnx") / name).read_bytes()
        for word in (b".py", b"site-packages", b"pkg.torch"):
            assert word not in content


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_both_models_give_the_same_in_any_precision(
    precision: str, exported: Callable[..., Path], run: Path
) -> None:
    folder = exported("onnx", precision)
    by_image, by_pixels = (
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        for name in ("image.onnx", "pixels.onnx")
    )
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)  # which no resizing changes
    facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    mean, std = (np.array(facts["preprocess"][name]) for name in ("mean", "std"))
    values = ((rgb / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    first, second = by_image.run(None, {"image": rgb}), by_pixels.run(None, {"pixel_values": values})
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    assert [node.name for node in by_pixels.get_outputs()] == ["probabilities", "features"]
    many = by_pixels.run(None, {"pixel_values": np.repeat(values, 7, axis=0)})[0]
    np.testing.assert_allclose(many, np.repeat(second[0], 7, axis=0), atol=1e-3)
    own = FewShotClassifier.load(run, device="cpu").predict_proba([Image.fromarray(rgb)])
    np.testing.assert_allclose(first[0], own, atol={"fp32": 1e-4, "fp16": 0.02, "int8": 0.2}[precision])


def test_thresholds_give_the_sets_of_the_classifier(
    exported: Callable[..., Path], run: Path, photos: Path
) -> None:
    facts = json.loads((exported("numpy") / "export.json").read_text(encoding="utf-8"))
    classifier = FewShotClassifier.load(run, device="cpu")
    images = sorted(photos.glob("*/*.png"))
    shares = classifier.predict_proba(images) ** facts["temperature"]  # at temperature 1
    shares /= shares.sum(axis=1, keepdims=True)
    for coverage, least in facts["sets"]["least_probability"].items():
        sets = classifier.predict_set(images, float(coverage))
        assert [set(own) for own in sets] == [
            set(classifier.classes_[row >= least * (1 - 1e-9)]) for row in shares
        ]
    assert facts["sets"]["images"] == len(json.loads((run / "split.json").read_text())["val"])


def test_thresholds_of_many_images_leave_classes_out() -> None:
    of_truth = -np.log(np.linspace(0.01, 1.0, 100))
    least = set_thresholds(of_truth)["least_probability"]
    assert least["0.9"] == pytest.approx(0.10)  # the 91st of 100: 90 images are less strange
    assert least["0.8"] > least["0.9"] > least["0.95"] > 0
    assert set_thresholds(of_truth[:3])["least_probability"] == {"0.8": 0.0, "0.9": 0.0, "0.95": 0.0}


def test_only_validation_images_give_thresholds(saved: Callable[..., Path], tmp_path: Path) -> None:
    export_run(saved("linear-probe"), tmp_path / "out", "numpy")
    assert json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))["sets"] == {}


def test_int8_gets_its_own_temperature(exported: Callable[..., Path], run: Path) -> None:
    facts = json.loads((exported("onnx", "int8") / "export.json").read_text(encoding="utf-8"))
    temperature = FewShotClassifier.load(run, device="cpu").temperature_
    assert facts["temperature"] != temperature
    assert facts["temperature"] == pytest.approx(temperature, rel=0.5)


def test_what_is_too_far_from_the_run_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "TOLERANCES", {"int8": Tolerance(1.0, 0.0)})
    with pytest.raises(ConfigError, match=r"'int8': of \d+ validation images .* so nothing was written"):
        export_run(run, tmp_path / "out", "onnx", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_int8_is_refused_without_images_of_the_run(saved: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected the run's own training or validation images"):
        export_run(saved("linear-probe"), tmp_path / "out", "onnx", precision="int8")


def test_agreement_counts_what_changed() -> None:
    own = np.array([[0.7, 0.3], [0.5, 0.5], [0.2, 0.8], [0.4, 0.6]])
    found = np.array([[0.6, 0.4], [0.4, 0.6], [0.2, 0.8], [0.55, 0.45]])
    far = agreement(own, found, "training")
    assert (far.images, far.top_1) == (4, 0.75)  # a tie of the run's own is no change
    assert far.largest_difference == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("images", "top_1", "largest", "precision", "good"),
    [
        (40, 1.0, 0.0005, "fp32", True), (40, 1.0, 0.002, "fp32", False), (40, 0.975, 0.0, "fp32", False),
        (10, 0.9, 0.01, "fp16", True), (1000, 0.98, 0.01, "fp16", False), (100, 0.95, 0.4, "int8", True),
        (100, 0.94, 0.4, "int8", False), (100, 1.0, 0.6, "int8", False),
    ],
)  # fmt: skip
def test_what_is_tolerated(images: int, top_1: float, largest: float, precision: str, good: bool) -> None:
    found = Agreement(images, "validation", top_1, largest)
    if good:
        found.require(precision)
    else:
        with pytest.raises(ConfigError, match=f"of {images} validation images"):
            found.require(precision)


def test_test_images_check_nothing(run: Path, saved: Callable[..., Path]) -> None:
    split = json.loads((run / "split.json").read_text(encoding="utf-8"))
    found = images_to_check(run)
    assert found.source == "validation"
    assert {example.image for example in found.images} == {item["image"] for item in split["val"]}
    assert images_to_check(saved("linear-probe")).source == "bundled"


def test_training_images_stand_in_for_validation_images(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    split = json.loads((run / "split.json").read_text(encoding="utf-8"))
    (tmp_path / "run" / "split.json").write_text(json.dumps(split | {"val": []}), encoding="utf-8")
    found = images_to_check(tmp_path / "run")
    assert found.source == "training"
    assert {example.image for example in found.images} <= {item["image"] for item in split["train"]}


def test_the_card_says_what_was_measured_and_how_it_was_chosen(
    exported: Callable[..., Path], run: Path
) -> None:
    card = ModelCard.load(exported("numpy") / "README.md")
    assert card.data.library_name == "numpy"
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    for words in (
        "with method block-lora", "| red_square | red_square | a photo of a red square. | 4 |", "95% interval",
        f"{metrics['accuracy']:.1%}", "fitted to", "looked at once, after training had ended", "## Licence",
        "## Limits", "python predict.py IMAGE...", "validation images: 100.0% keep their class",
    ):  # fmt: skip
        assert words in card.text, words
    assert str(run.parent) not in card.content


def test_a_card_without_measurements_says_so(saved: Callable[..., Path], tmp_path: Path) -> None:
    export_run(saved("linear-probe"), tmp_path / "out", "numpy")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "saved without test images" in text
    assert "8 bundled images" in text


def test_a_lora_export_is_stock_peft(exported: Callable[..., Path]) -> None:
    folder = exported("lora")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["peft_type"] == "LORA"
    assert all(".lora_" in name for name in load_file(folder / "adapter_model.safetensors"))
    assert not (folder / "base").exists()


def test_a_method_without_an_adapter_has_no_lora(saved: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'linear-probe' trains no adapter"):
        export_run(saved("linear-probe"), tmp_path / "out", "lora")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    for out, words in ((tmp_path, "is not empty"), (tmp_path / "mine.txt", "this is a file")):
        with pytest.raises(RunError, match=words):
            export_run(run, out, "numpy")
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("format_", "precision", "words"),
    [
        ("onx", "fp32", "expected one of lora, hf, onnx, numpy; did you mean 'onnx'"),
        ("onnx", "fp8", "expected one of fp32, fp16, int8"),
        ("hf", "int8", "only onnx has others"),
    ],
)
def test_unknown_formats_and_precisions(
    format_: Any, precision: Any, words: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        export_run(run, tmp_path / "out", format_, precision=precision)


def test_missing_packages_are_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocklora.export.run.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'blocklora\[export\]'"):
        export_run(run, tmp_path / "out", "onnx")


def test_a_script_that_answers_otherwise_is_noticed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export_run.__globals__["write_arrays"]

    def wrong(folder: Path, classifier: Any, facts: Any) -> Any:
        found = real(folder, classifier, facts)
        head = dict(np.load(folder / "head.npz"))
        np.savez(folder / "head.npz", class_features=-head["class_features"])
        return found

    monkeypatch.setitem(export_run.__globals__, "write_arrays", wrong)
    with pytest.raises(RunError, match=r"gives .* the class"):
        export_run(run, tmp_path / "out", "numpy")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_how_far_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "made" / "out"
    code, told, _ = call(capsys, monkeypatch, "export", run, "--format", "numpy", "--out", out)
    assert code == 0
    assert "100.0% keep their class" in told
    assert f"written to {out}" in told
    code, told, _ = call(
        capsys, monkeypatch, "export", run, "--format", "numpy", "--out", tmp_path / "b", "--json"
    )
    assert (code, json.loads(told)["format"]) == (0, "numpy")
    code, _, errors = call(capsys, monkeypatch, "export", run, "--format", "onx", "--out", tmp_path / "c")
    assert code == 1
    assert "did you mean 'onnx'" in errors
