"""Images and labels as a user gives them in Python, checked one by one: every error names the place, as in "image 3".

Axis letters: H height, W width.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from blocklora.core.errors import DataError, ImageError
from blocklora.core.files import user_path
from blocklora.core.words import count, printable
from blocklora.data.types import Source, Unreadable

__all__ = [
    "ImageLike",
    "check_images",
    "check_labels",
    "image_from_array",
    "name_of",
    "raise_unreadable",
    "source_of",
]

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[Any]
"""What a user gives as one image: a path, a file's bytes, an open file, a PIL image, an array or a tensor."""

_KINDS = "a path, a file's bytes, an open binary file, a PIL image, an array or a tensor"
_CHANNELS = (1, 3, 4)
_SHAPES = "(height, width), (height, width, 3) or (3, height, width)"


def check_images(images: Iterable[ImageLike]) -> list[ImageLike]:
    """Return a list of images, after checking that it is one: a single image in its place is refused.

    Args:
        images: A list, tuple, series or generator of images, or an array or tensor whose first axis counts them: its
            shape is (images, height, width, channels), (images, channels, height, width) or (images, height, width).

    Raises:
        DataError: One image was given, or a text, a dictionary, a set or a table.
    """
    if isinstance(images, (str, bytes, os.PathLike, Image.Image, Mapping, set, frozenset)) or hasattr(
        images, "read"
    ):
        raise _not_a_list(f"one {type(images).__name__}")
    shape = getattr(images, "shape", None)
    if isinstance(shape, tuple) and (
        len(shape) in (0, 2) or (len(shape) == 3 and _channels_axis(shape) is not None)
    ):
        raise _not_a_list(f"an array of shape {tuple(shape)}")
    try:
        return list(images)
    except TypeError:
        raise _not_a_list(f"a {type(images).__name__}") from None


def _not_a_list(what: str) -> DataError:
    return DataError(
        f"images: expected a list of images, not {what}; for one image write [image], for a stack of grey ones "
        "list(images)"
    )


def name_of(image: ImageLike, place: int) -> str:
    """Return what messages call the image at a place of a list: its path, or "image 3", counted from 0."""
    return printable(os.fspath(image)) if isinstance(image, (str, os.PathLike)) else f"image {place}"


def source_of(image: ImageLike, name: str = "image") -> Source:
    """Return where an image's pixels are.

    Args:
        image: A path (``~`` is expanded), the bytes of a file, an open binary file (read from its start, and left
            where it was), a PIL image, or an array or tensor as ``image_from_array`` takes it.
        name: What errors call the image, such as "image 3".

    Raises:
        ImageError: It is nothing of these, or an array that is no image.
    """
    if isinstance(image, (str, os.PathLike)):
        return user_path(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, Image.Image):
        return image
    if hasattr(image, "read"):
        return _content(image, name)
    if hasattr(image, "shape"):
        return image_from_array(image, name)
    raise ImageError(f"{name}: a {type(image).__name__} is no image: expected {_KINDS}")


def _content(stream: Any, name: str) -> bytes:
    """Read an open file from its start, and leave it where it was."""
    try:
        if isinstance(stream, io.BytesIO):
            return stream.getvalue()
        where = stream.tell() if stream.seekable() else None
        if where is not None:
            stream.seek(0)
        content = stream.read()
        if where is not None:
            stream.seek(where)
    except (OSError, ValueError, AttributeError) as error:
        raise ImageError(
            f"{name}: this open file cannot be read ({error}): open it again, or give its path"
        ) from error
    if not isinstance(content, bytes):
        raise ImageError(f"{name}: this file was opened as text: open it with mode 'rb', or give its path")
    return content


def image_from_array(array: Any, name: str = "array") -> Image.Image:
    """Turn an array or tensor into an image.

    Integers are values 0 to 255. Floats whose largest is at most 1 are values 0 to 1; floats whose largest is 2 or
    more are values 0 to 255. Floats between the two can be either and are refused.

    Args:
        array: (H, W) grey, or (H, W, C) or (C, H, W) with C = 1 (grey), 3 (RGB) or 4 (RGB and opacity, laid on white):
            a numpy array, a torch tensor on any device, or what numpy makes an array of.
        name: What errors call the array.

    Returns:
        An image with its own copy of the pixels.

    Raises:
        ImageError: The shape, type or range is another, or it is not clear which axis holds the channels.
    """
    if hasattr(array, "detach"):  # a tensor, perhaps on a GPU or of a type that numpy does not have
        array = array.detach().cpu()
        array = array.double() if array.is_floating_point() else array
    values = np.asarray(array)
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ImageError(f"{name}: an array of shape {values.shape} is no image: expected {_SHAPES}")
    if values.ndim == 3:
        values = _channels_last(values, name)
    pixels = np.ascontiguousarray(_bytes(values, name))
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _channels_axis(shape: Sequence[int]) -> int | None:
    """Return which of three axes holds the channels: 0 or 2; -1 where both can, None where neither can."""
    axes = [axis for axis in (0, 2) if shape[axis] in _CHANNELS]
    if len(axes) == 2:
        return -1
    return axes[0] if axes else None


def _channels_last(values: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return the array as (H, W, C)."""
    axis = _channels_axis(values.shape)
    if axis is None or axis < 0:
        why = "is no image" if axis is None else "can be read with the channels first or last"
        raise ImageError(
            f"{name}: an array of shape {values.shape} {why}: expected {_SHAPES}, with more pixels"
        )
    return np.moveaxis(values, 0, 2) if axis == 0 else values


def _bytes(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Scale an array's values to 0..255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iuf":
        raise ImageError(
            f"{name}: an array of {values.dtype} is no image: expected numbers, uint8 values 0 to 255"
        )
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError(
            f"{name}: the array holds values that are no finite numbers: expected 0 to 255, or 0 to 1"
        )
    if low < 0 or high > 255:
        raise ImageError(
            f"{name}: the array's values go from {low:.4g} to {high:.4g}: expected 0 to 255, or 0 to 1 as floats; give "
            "the image as it was before it was normalised"
        )
    floats = values.dtype.kind == "f"
    if (floats and 1 < high < 2) or (not floats and high == 1):
        raise ImageError(
            f"{name}: the array's largest value is {high:.4g}, so that its range can be 0 to 1 or 0 to 255: give uint8 "
            "values 0 to 255"
        )
    scale = 255.0 if floats and high <= 1 else 1.0
    scaled: npt.NDArray[np.uint8] = np.rint(values.astype(np.float64) * scale).astype(np.uint8)
    return scaled


def check_labels(labels: Iterable[Any], n: int) -> list[Any]:
    """Return the labels as plain Python values, one an image.

    Args:
        labels: A list, series or array (n,) or (n, 1) of text, of whole numbers, or of booleans.
        n: How many images there are.

    Raises:
        DataError: The lengths differ, or a label is missing, of another type than the others, or one-hot.
    """
    if isinstance(labels, (str, bytes, Mapping, set, frozenset)):
        raise DataError(f"labels: expected a list with one label an image, not a {type(labels).__name__}")
    shape: tuple[int, ...] = tuple(getattr(labels, "shape", ()))
    if len(shape) == 2 and shape[1] != 1:
        raise DataError(
            f"labels: an array of shape {shape} looks one-hot: expected one label an image; give labels.argmax(axis=1)"
        )
    try:
        listed = [_plain(label) for label in (np.asarray(labels).ravel() if len(shape) == 2 else labels)]
    except TypeError:
        raise DataError(
            f"labels: expected a list with one label an image, not a {type(labels).__name__}"
        ) from None
    if len(listed) != n:
        raise DataError(
            f"{count(n, 'image')} but {count(len(listed), 'label')}; expected one label an image."
        )
    kinds = [_kind(label, place) for place, label in enumerate(listed)]
    other = next((place for place, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        raise DataError(
            f"label {other} is a {kinds[other]} ({listed[other]!r}), but label 0 is a {kinds[0]} ({listed[0]!r}): "
            "expected labels of one kind"
        )
    return listed


def _plain(label: Any) -> Any:
    """Return a numpy number or text, or a tensor of one value, as Python's own."""
    return label.item() if hasattr(label, "item") and getattr(label, "shape", None) == () else label


def _kind(label: Any, place: int) -> str:
    """Return whether a label is a text, number or boolean; anything else is refused."""
    if (
        label is None
        or type(label).__name__ in ("NAType", "NaTType")
        or (isinstance(label, float) and label != label)
    ):
        raise DataError(f"label {place} is missing ({label}): give a label, or leave the image out")
    if isinstance(label, bool):
        return "boolean"
    if isinstance(label, int) or (isinstance(label, float) and label.is_integer()):
        return "number"
    if isinstance(label, str) and label.strip():
        return "text"
    what = "blank" if isinstance(label, str) else f"{str(label)[:60]!r}, a {type(label).__name__}"
    raise DataError(f"label {place} is {what}: expected text or a whole number that names a class")


def raise_unreadable(unreadable: Sequence[Unreadable]) -> None:
    """Raise an ``ImageError`` that names the first of some unreadable images, if there are any."""
    more = f" ({count(len(unreadable), 'image')} in all)" if len(unreadable) > 1 else ""
    if unreadable:
        raise ImageError(f"{unreadable[0].reason}{more}")
