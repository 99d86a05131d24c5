"""What a user gives, checked at the door with its place, and what a fit leaves as it was."""

from __future__ import annotations

import io
import logging
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, PartialState
from PIL import Image

from blocklora import ConfigError, DataError, FewShotClassifier, ImageError, ModelError

New = Callable[..., FewShotClassifier]
RNG = np.random.default_rng(0)
HWC = [RNG.integers(0, 256, (40, 41, 3), dtype=np.uint8) for _ in range(6)]
LABELS = ["a", "b", "a", "b", "a", "b"]


@pytest.fixture(scope="module")
def new(clip_folder: Path) -> New:
    def make(method: str = "zero-shot", **more: Any) -> FewShotClassifier:
        return FewShotClassifier(**({"model": clip_folder, "method": method, "device": "cpu"} | more))

    return make


@pytest.fixture(scope="module")
def fitted(new: New) -> FewShotClassifier:
    return new("linear-probe", c=1.0).fit(HWC, LABELS)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.png"
    path.write_text("no image", encoding="utf-8")
    return path


def png(array: np.ndarray) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer


# ---- images

KINDS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": str,
    "PIL": Image.open,
    "bytes": Path.read_bytes,
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "array HWC": lambda path: np.asarray(Image.open(path)),
    "array CHW": lambda path: np.asarray(Image.open(path)).transpose(2, 0, 1),
    "floats 0 to 255": lambda path: np.asarray(Image.open(path)).astype(np.float32),
    "floats 0 to 1": lambda path: np.asarray(Image.open(path)) / 255,
    "tensor HWC": lambda path: torch.from_numpy(np.array(Image.open(path))),
    "tensor CHW": lambda path: torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255,
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_are_the_same(
    kind: str, new: New, fitted: FewShotClassifier, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{place}.png" for place in range(6)]
    for path, array in zip(paths, HWC, strict=True):
        Image.fromarray(array).save(path)
    given = [KINDS[kind](path) for path in paths]
    expected = fitted.predict_proba(HWC)
    np.testing.assert_array_equal(fitted.predict_proba(given), expected)
    again = new("linear-probe", c=1.0).fit([KINDS[kind](path) for path in paths], LABELS)
    np.testing.assert_array_equal(again.predict_proba(HWC), expected)


@pytest.mark.parametrize(
    "stack",
    [np.stack(HWC), torch.from_numpy(np.stack(HWC)), pd.Series(HWC), iter(HWC)],
    ids=["array", "tensor", "series", "iterator"],
)
def test_lists_of_every_kind_are_the_same(stack: Any, fitted: FewShotClassifier) -> None:
    np.testing.assert_array_equal(fitted.predict_proba(stack), fitted.predict_proba(HWC))


@pytest.mark.parametrize(
    "one",
    [
        HWC[0],
        torch.from_numpy(HWC[0]),
        Image.fromarray(HWC[0]),
        "a.png",
        Path("a.png"),
        png(HWC[0]),
        b"x",
        None,
    ],
    ids=lambda one: type(one).__name__,
)
def test_one_image_in_the_place_of_a_list(one: Any, new: New, fitted: FewShotClassifier) -> None:
    for ask in (
        fitted.predict,
        fitted.predict_proba,
        lambda x: fitted.score(x, ["a"]),
        lambda x: new().fit(x, ["a"]),
    ):
        with pytest.raises(DataError, match=r"images: expected a list of images, not .* write \[image\]"):
            ask(one)


@pytest.mark.parametrize(
    "wrong", [None, 3, 0.5, {"image": 1}, np.zeros(5), HWC[0] / 200, np.full((9, 9, 3), np.nan)]
)
def test_what_is_no_image_is_named_by_its_place(wrong: Any, new: New, fitted: FewShotClassifier) -> None:
    given = [*HWC[:3], wrong, *HWC[4:]]
    for ask in (fitted.predict, lambda x: fitted.score(x, LABELS), lambda x: new().fit(x, LABELS)):
        with pytest.raises(ImageError, match=r"^image 3: "):
            ask(given)


def test_unreadable_files_are_named(new: New, fitted: FewShotClassifier, broken: Path) -> None:
    with pytest.raises(ImageError, match=r"broken\.png.*\(2 images in all\)"):
        fitted.predict([HWC[0], broken, broken])
    with pytest.raises(ImageError, match=r"nope\.png: there is no such file"):
        fitted.predict_proba(["nope.png"])
    with pytest.raises(ImageError, match=r"^image 1: "):
        fitted.predict([HWC[0], b"no image"])
    with pytest.raises(ImageError, match=r"nope\.png: there is no such file"):
        new().fit(["nope.png", *HWC], ["a", *LABELS])
    with pytest.raises(ImageError, match=r"broken\.png"):
        new().fit([*HWC, broken], [*LABELS, "a"])
    with pytest.raises(DataError, match=r"no readable training image for 'x'.*broken\.png.*\. Add images"):
        new().fit([*HWC, broken], [*LABELS, "x"])


def test_unreadable_training_images_are_left_out_where_asked(new: New, broken: Path) -> None:
    classifier = new("linear-probe", c=1.0, on_unreadable="skip")
    classifier.fit([broken, "nope.png", b"no image", *HWC], ["a", "a", "a", *LABELS])
    assert [bad.image for bad in classifier.unreadable_] == [str(broken), "nope.png", "image 2"]
    np.testing.assert_array_equal(
        classifier.predict_proba(HWC), new("linear-probe", c=1.0).fit(HWC, LABELS).predict_proba(HWC)
    )
    with pytest.raises(ImageError, match=r"broken\.png"):  # an answer must not be missing
        classifier.predict([HWC[0], broken])
    with pytest.raises(DataError, match=r"no readable training image for 'b'"):
        classifier.fit([HWC[0], broken], ["a", "b"])
    with pytest.raises(ConfigError, match="on_unreadable 'ignore': expected raise or skip"):
        new(on_unreadable="ignore")


def test_an_image_in_two_classes_is_pointed_out(new: New) -> None:
    classifier = new().fit([*HWC, HWC[0]], [*LABELS, "b"])
    assert any(
        "1 image has the same content as an image of another class" in note for note in classifier.notes_
    )
    assert not any("same content" in note for note in new().fit([*HWC, HWC[0]], [*LABELS, "a"]).notes_)


# ---- labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", None, *LABELS[2:]], "label 1 is missing"),
        ([0.0, np.nan, 1, 1, 1, 1], "label 1 is missing"),
        (pd.Series(["a", pd.NA, *LABELS[2:]], dtype="string"), "label 1 is missing"),
        (["a", 1, *LABELS[2:]], "label 1 is a number"),
        (["a", " ", *LABELS[2:]], "label 1 is blank"),
        ([0.5, 1, 1, 0, 0, 1], "label 0 is '0.5', a float"),
        (np.eye(2)[[0, 1, 0, 1, 0, 1]], "looks one-hot"),
        (np.array(["2020-01-01", "2021-01-01"] * 3, dtype="datetime64[D]"), "label 0 is "),
        ("ababab", "labels: expected a list"),
        (None, "labels: expected a list"),
        (LABELS[:2], "6 images but 2 labels"),
        (["a"] * 6, "1 class; a classifier needs two or more"),
    ],
    ids=str,
)  # fmt: skip
def test_labels_are_checked_by_their_place(labels: Any, message: str, new: New) -> None:
    with pytest.raises(DataError, match=message):
        new().fit(HWC, labels)


@pytest.mark.parametrize(
    "labels", [np.array(LABELS), np.array(LABELS)[:, None], pd.Series(LABELS, index=range(7, 13)),
               pd.Categorical(LABELS), (label for label in LABELS)], ids=lambda labels: type(labels).__name__,
)  # fmt: skip
def test_lists_of_labels_of_every_kind(labels: Any, new: New) -> None:
    classifier = new().fit(HWC, labels)
    assert classifier.classes_.tolist() == ["a", "b"]


def test_labels_to_score_are_of_the_same_kind(new: New, fitted: FewShotClassifier) -> None:
    with pytest.raises(
        DataError, match=r"label 0 is 0, but the classifier's labels are \['a', 'b'\]: .* same kind"
    ):
        fitted.score(HWC, [0, 1] * 3)
    with pytest.raises(DataError, match=r"label 0 is '0', but the classifier's labels are \[0, 1\]"):
        new().fit(HWC, [0, 1] * 3).score(HWC, ["0", "1"] * 3)
    with pytest.raises(DataError, match="6 images but 1 label;"):
        fitted.score(HWC, LABELS[:1])
    with pytest.raises(DataError, match="label 2 is missing"):
        fitted.score(HWC, [*LABELS[:2], None, *LABELS[3:]])
    assert fitted.score(HWC[:2], ["x", "y"]) == 0.0  # classes that the classifier cannot know
    assert new().fit(HWC, [0.0, 1.0] * 3).score(HWC, np.array([0, 1] * 3)) >= 0


def test_no_images(new: New, fitted: FewShotClassifier) -> None:
    for images, labels in (([], []), (np.empty((0, 9, 9, 3)), np.empty(0))):
        with pytest.raises(DataError, match="images: the list is empty"):
            new().fit(images, labels)
        with pytest.raises(DataError, match="images: the list is empty"):
            fitted.score(images, labels)
        assert fitted.predict(images).shape == (0,)


# ---- parameters


def test_numbers_devices_and_paths_of_every_kind(new: New, clip_folder: Path, tmp_path: Path) -> None:
    plain: dict[str, Any] = {"shots": 2, "seed": 1, "iterations": 2, "batch_size": 4}
    one = new("block-lora", **plain, lr=float(np.float32(0.01)), model=str(clip_folder)).fit(HWC, LABELS)
    other = new(
        "block-lora",
        model=clip_folder,
        shots=np.int64(2),
        seed=np.int32(1),
        iterations=np.int16(2),
        batch_size=np.uint8(4),
        lr=np.float32(0.01),
        device=torch.device("cpu"),
        class_names={np.str_("a"): np.str_("a")},
    ).fit(HWC, LABELS)
    np.testing.assert_array_equal(one.predict_proba(HWC), other.predict_proba(HWC))
    other.save(tmp_path / "kept")  # everything is ready for JSON
    loaded = FewShotClassifier.load(tmp_path / "kept", device=torch.device("cpu"), model=clip_folder)
    np.testing.assert_array_equal(loaded.fit(HWC, LABELS).predict_proba(HWC), one.predict_proba(HWC))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed '-1': expected a whole number from 0 to 9223372036854775807"),
        ({"seed": 2**63}, "seed '9223372036854775808': expected"),
        ({"seed": 1.0}, "seed '1.0': expected"),
        ({"seed": True}, "seed 'True': expected"),
        ({"seed": None}, "seed 'None': expected"),
        ({"shots": 0}, "shots '0': expected"),
        ({"shots": 1.5}, "shots '1.5': expected"),
        ({"shots": np.float64(2)}, "shots '2.0': expected"),
        ({"device": "gpu"}, "device 'gpu': expected auto, cpu"),
        ({"device": 0}, "device '0': expected auto, cpu"),
        ({"precision": "fp8"}, "precision 'fp8': expected auto, fp32"),
        ({"prompt": None}, "prompt 'None': expected a text such as"),
        ({"prompt": "a photo"}, "holds '{}' 0 times"),
        ({"ensemble": "a {}."}, "ensemble 'a {}.': expected a list of templates"),
        ({"ensemble": None}, "ensemble 'None': expected a list of templates"),
        ({"ensemble": ["a {}.", "the"]}, "holds '{}' 0 times"),
        ({"ensemble": [3]}, "ensemble '3': expected a text such as"),
        ({"class_names": ["a", "b"]}, "class_names ['a', 'b']: expected a dictionary of words by label"),
        ({"method": None}, "method 'None': expected one of block-lora"),
        ({"c": "big"}, "c 'big': expected a number"),
    ],
    ids=str,
)
def test_values_that_cannot_work_are_named(wrong: dict[str, Any], message: str, new: New) -> None:
    with pytest.raises(ConfigError) as caught:
        new(**({"method": "linear-probe"} | wrong))
    assert message in str(caught.value)
    later = new("linear-probe").set_params(**wrong)  # set_params does not look, fit does
    with pytest.raises(ConfigError) as caught:
        later.fit(HWC, LABELS)
    assert message in str(caught.value)


def test_the_largest_seed_works(new: New) -> None:
    classifier = new("block-lora", seed=2**63 - 1, shots=1, iterations=1).fit(HWC, LABELS)
    assert classifier.predict_proba(HWC).shape == (6, 2)


def test_class_names_that_are_no_labels_are_refused(new: New) -> None:
    with pytest.raises(DataError, match=r"class_names: 'A' is no label; did you mean 'a'\?"):
        new(class_names={"A": "apple"}).fit(HWC, LABELS)


def test_models_that_are_not_there(new: New, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        new(model=tmp_path).fit(HWC, LABELS)
    with pytest.raises(ModelError, match="there is no such folder"):
        new(model=tmp_path / "nowhere").fit(HWC, LABELS)


# ---- the caller's own state


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("method", ["block-lora", "linear-probe", "cocoop", "full"])
def test_inside_the_callers_contexts(method: str, new: New, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "block-lora": {"iterations": 2},
        "linear-probe": {"c": 1.0},
        "cocoop": {"epochs": 1},
        "full": {"iterations": 1},
    }
    expected = new(method, **options[method]).fit(HWC, LABELS).predict_proba(HWC)
    for context in (torch.no_grad(), torch.autocast("cpu", torch.bfloat16), default_dtype(torch.float64)):
        with context:
            classifier = new(method, **options[method]).fit(HWC, LABELS)
            np.testing.assert_array_equal(classifier.predict_proba(HWC), expected)
    with torch.inference_mode():
        np.testing.assert_array_equal(classifier.predict_proba(HWC), expected)
        with pytest.raises(ConfigError, match=r"training inside torch\.inference_mode\(\) is impossible"):
            new(method, **options[method]).fit(HWC, LABELS)
        classifier.save(tmp_path)
        loaded = FewShotClassifier.load(tmp_path, device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(HWC), expected)
    np.testing.assert_array_equal(loaded.fit(HWC, LABELS).predict_proba(HWC), expected)


def state() -> dict[str, Any]:
    """Return what belongs to the caller."""
    return {
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default dtype": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": [np.asarray(part).tolist() for part in np.random.get_state()],
        "random": random.getstate(),
        "warnings": list(warnings.filters),
        "accelerate": (dict(AcceleratorState._shared_state), dict(PartialState._shared_state)),
        "logging": {
            name: logging.getLogger(name).level for name in ("", "transformers", "peft", "torch", "PIL")
        },
        "handlers": list(logging.getLogger().handlers),
        "transformers": transformers.utils.logging.get_verbosity(),
        "pixels": Image.MAX_IMAGE_PIXELS,
    }


@pytest.mark.parametrize("method", ["block-lora", "linear-probe", "coop", "full"])
def test_the_callers_state_is_as_before(method: str, new: New, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "block-lora": {"iterations": 2},
        "linear-probe": {},
        "coop": {"epochs": 1, "n_context": 2},
        "full": {"iterations": 1},
    }
    before = state()
    classifier = new(method, shots=2, **options[method]).fit(HWC, LABELS)
    classifier.predict(HWC)
    classifier.save(tmp_path)
    FewShotClassifier.load(tmp_path, device="cpu").score(HWC, LABELS)
    with pytest.raises(ImageError):
        classifier.fit(["nope.png", *HWC], ["a", *LABELS])
    after = state()
    assert {name for name in before if before[name] != after[name]} == set()
