from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from blocklora.core.errors import DataError, ImageError
from blocklora.data import check_images, check_labels, image_from_array, name_of, open_image, source_of

RNG = np.random.default_rng(0)
HWC = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def pixels(image):
    return np.asarray(image.convert("RGB"))


def png(array=HWC):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer


# ---- arrays

SAME = {
    "uint8 HWC": HWC,
    "uint8 CHW": HWC.transpose(2, 0, 1),
    "int64": HWC.astype(int),
    "uint16": HWC.astype(np.uint16),
    "float 0..255": HWC.astype(np.float32),
    "float 0..1": HWC / 255,
    "float16 0..1": (HWC / 255).astype(np.float16),
    "tensor HWC": torch.from_numpy(HWC),
    "tensor CHW": torch.from_numpy(HWC).permute(2, 0, 1),
    "float tensor CHW": torch.from_numpy(HWC).permute(2, 0, 1) / 255,
    "with a gradient": (torch.from_numpy(HWC) / 255).requires_grad_(),
}


@pytest.mark.parametrize("kind", SAME)
def test_arrays_and_tensors_of_every_kind_are_the_same_image(kind):
    assert (pixels(image_from_array(SAME[kind])) == HWC).all()


def test_bfloat16_is_rounded_as_it_is_stored():
    tensor = (torch.from_numpy(HWC) / 255).to(torch.bfloat16)
    assert np.abs(pixels(image_from_array(tensor)).astype(int) - HWC).max() <= 1


def test_grey_and_opacity():
    grey = HWC[..., 0]
    for array in (grey, grey[..., None], grey[None], grey / 255, torch.from_numpy(grey)[None]):
        image = image_from_array(array)
        assert image.mode == "L"
        assert (np.asarray(image) == grey).all()
    clear = np.dstack([HWC, np.zeros((5, 7), dtype=np.uint8)])
    assert (np.asarray(open_image(image_from_array(clear))) == 255).all()


def test_an_image_of_an_array_has_pixels_of_its_own():
    array = HWC.copy()
    image = image_from_array(array[:, ::-1])
    array[:] = 0
    assert (pixels(image) == HWC[:, ::-1]).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 2), dtype=np.uint8), r"shape \(2, 2, 2\) is no image: expected \(height, width\)"),
        (np.zeros((0, 2), dtype=np.uint8), r"shape \(0, 2\) is no image"),
        (np.zeros(3, dtype=np.uint8), r"shape \(3,\) is no image"),
        (np.zeros((1, 3, 8, 8), dtype=np.uint8), r"shape \(1, 3, 8, 8\) is no image"),
        (
            np.zeros((3, 8, 3), dtype=np.uint8),
            r"shape \(3, 8, 3\) can be read with the channels first or last",
        ),
        (np.array([["a"]]), "an array of <U1 is no image: expected numbers"),
        (np.zeros((8, 8), dtype=bool), "an array of bool is no image"),
        (np.zeros((8, 8), dtype=complex), "an array of complex128 is no image"),
        (np.full((8, 8), np.nan), "values that are no finite numbers"),
        (np.full((8, 8), np.inf), "values that are no finite numbers"),
        (np.array([[-1.2, 2.0]]), "values go from -1.2 to 2: expected .* before it was normalised"),
        (np.array([[0, 256]]), "values go from 0 to 256: expected 0 to 255"),
        (np.array([[0, 1.01]]), "largest value is 1.01, so that its range can be 0 to 1 or 0 to 255"),
        (np.array([[0, 1]]), "largest value is 1, so that its range can be"),
        (torch.full((3, 8, 8), -2.0), "values go from -2 to -2"),
    ],
)
def test_other_arrays_are_refused_by_their_place(array, message):
    with pytest.raises(ImageError, match=f"^image 3: .*{message}"):
        source_of(array, "image 3")


@given(arrays.arrays(np.uint8, st.tuples(st.integers(5, 9), st.integers(5, 9), st.just(3))))
def test_any_image_comes_back_from_any_layout(array):
    kinds = [array, array.transpose(2, 0, 1), array.astype(int), array.astype(float), array / 255]
    for kind in kinds if array.max() > 1 else kinds[:2]:
        assert (pixels(image_from_array(kind)) == array).all()


# ---- one image


def test_every_kind_of_source_is_the_same_image(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(png().getvalue())
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    with open(path, "rb") as file:
        file.seek(3)
        kinds = [
            str(path), path, "~/x.png", path.read_bytes(), bytearray(path.read_bytes()), png(), file,
            Image.open(path), HWC, torch.from_numpy(HWC), np.str_(path),
        ]  # fmt: skip
        for kind in kinds:
            assert (np.asarray(open_image(source_of(kind))) == HWC).all(), type(kind)
        assert file.tell() == 3  # left where it was


def test_an_open_file_that_cannot_go_back_is_read_once():
    class Pipe(io.RawIOBase):
        content = png().getvalue()

        def readable(self):
            return True

        def readinto(self, buffer):
            part, self.content = self.content[: len(buffer)], self.content[len(buffer) :]
            buffer[: len(part)] = part
            return len(part)

    assert (np.asarray(open_image(source_of(Pipe()))) == HWC).all()


@pytest.mark.parametrize("what", [None, 3, 1.5, [1, 2], {"image": "x.png"}, object()])
def test_what_is_no_image_is_refused_by_its_place(what):
    with pytest.raises(
        ImageError, match=f"^image 2: a {type(what).__name__} is no image: expected a path, a file's"
    ):
        source_of(what, "image 2")


def test_files_that_are_open_as_text_or_closed_are_refused(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"text")
    with (
        open(path, encoding="utf-8") as stream,
        pytest.raises(ImageError, match="image 0: this file was opened as text"),
    ):
        source_of(stream, "image 0")
    with pytest.raises(ImageError, match="image 0: this open file cannot be read"):
        source_of(stream, "image 0")


def test_names_are_paths_or_places():
    assert name_of("a/b.png", 3) == "a/b.png"
    assert name_of(Path("b.png"), 3) == "b.png"
    assert name_of(HWC, 3) == "image 3"
    assert name_of(b"...", 3) == "image 3"
    assert name_of("caf\udce9.png", 3) == "caf\\udce9.png"


# ---- a list of images

ONE = {
    "array HWC": HWC,
    "array CHW": HWC.transpose(2, 0, 1),
    "grey array": HWC[..., 0],
    "tensor": torch.from_numpy(HWC),
    "path": "photo.png",
    "Path": Path("photo.png"),
    "PIL": Image.fromarray(HWC),
    "bytes": b"...",
    "BytesIO": io.BytesIO(),
    "dict": {"a.png": 1},
    "set": {"a.png"},
    "table": pd.DataFrame({"image": ["a.png"]}),
    "None": None,
    "flattened": np.zeros((10, 64)),
    "0-d": np.array("a.png"),
}


@pytest.mark.parametrize("kind", ONE)
def test_one_image_in_the_place_of_a_list_is_refused(kind):
    with pytest.raises(
        DataError, match=r"^images: expected a list of images, not .*; for one image write \[image\]"
    ):
        check_images(ONE[kind])


def test_lists_of_every_kind_are_taken():
    paths = ["a.png", "b.png"]
    for images in (
        paths,
        tuple(paths),
        np.array(paths),
        pd.Series(paths, index=[7, 9]),
        (path for path in paths),
    ):
        assert [os.fspath(path) for path in check_images(images)] == paths
    stack = np.stack([HWC] * 40)
    for images in (stack, stack.transpose(0, 3, 1, 2), stack[..., 0], torch.from_numpy(stack)):
        assert len(check_images(images)) == 40
    assert check_images([]) == []


# ---- labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a", "b", "a"], ["a", "b", "a"]),
        (np.array(["a", "b", "a"]), ["a", "b", "a"]),
        (np.array([1, 0, 1], dtype=np.int8), [1, 0, 1]),
        ([np.int64(1), 0, np.float32(1)], [1, 0, 1.0]),
        (np.array([True, False, True]), [True, False, True]),
        (np.array([[1], [0], [1]]), [1, 0, 1]),
        (torch.tensor([1, 0, 1]), [1, 0, 1]),
        (pd.Series(["a", "b", "a"], index=[5, 6, 7]), ["a", "b", "a"]),
        (pd.Categorical(["a", "b", "a"]), ["a", "b", "a"]),
        (pd.Series([1, 0, 1], dtype="Int64"), [1, 0, 1]),
        (pd.DataFrame({"label": ["a", "b", "a"]}), ["a", "b", "a"]),
        ((label for label in "aba"), ["a", "b", "a"]),
    ],
)
def test_labels_become_plain_values(labels, expected):
    found = check_labels(labels, 3)
    assert found == expected
    assert {type(label) for label in found} <= {str, int, float, bool}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", None, "b"], r"label 1 is missing \(None\): give a label, or leave the image out"),
        ([0.0, np.nan, 1.0], r"label 1 is missing \(nan\)"),
        (pd.Series(["a", np.nan, "b"]), "label 1 is missing"),
        (pd.Series(["a", "b", pd.NA], dtype="string"), "label 2 is missing"),
        ([pd.NaT, 1, 2], "label 0 is missing"),
        (np.eye(3), r"an array of shape \(3, 3\) looks one-hot: .* give labels.argmax\(axis=1\)"),
        ([[0, 1], [1, 0], [0, 1]], "label 0 is '\\[0, 1\\]', a list: expected text or a whole number"),
        (["a", "b"], "3 images but 2 labels; expected one label an image"),
        (["a"], "3 images but 1 label; expected"),
        (
            ["a", 1, "b"],
            r"label 1 is a number \(1\), but label 0 is a text \('a'\): expected labels of one kind",
        ),
        ([0, True, 1], r"label 1 is a boolean \(True\), but label 0 is a number"),
        ([0, 0.5, 1], "label 1 is '0.5', a float: expected text or a whole number"),
        ([0, float("inf"), 1], "label 1 is 'inf', a float"),
        (["a", " ", "b"], "label 1 is blank"),
        ([b"a", b"b", b"c"], "label 0 is .*a bytes"),
        (np.array(["2020-01-01"] * 3, dtype="datetime64[D]"), "label 0 is '2020-01-01', a date"),
        ("abc", "labels: expected a list with one label an image, not a str"),
        (None, "labels: expected a list with one label an image, not a NoneType"),
        ({"a": 1, "b": 2, "c": 3}, "not a dict"),
    ],
)
def test_labels_that_cannot_be_used_are_named_by_their_place(labels, message):
    with pytest.raises(DataError, match=message):
        check_labels(labels, 3)
