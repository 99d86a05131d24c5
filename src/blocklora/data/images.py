"""Open one picture: any common file, as upright RGB, or an error that names the file.

Axis letters: H height, W width. Nothing of Pillow's global state is changed, and no warning filter is touched
(filters are shared by all threads): formats are tried here instead of by ``PIL.Image.open``, which warns
about big pictures before a caller can decide.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from blocklora.core.errors import ConfigError, ImageError
from blocklora.data.types import Source

try:  # Pillow 11.3 and later
    from PIL import AvifImagePlugin
except ImportError:  # pragma: no cover
    _HAS_AVIF = False
else:
    _HAS_AVIF = bool(AvifImagePlugin.SUPPORTED)

__all__ = ["IMAGE_ENDINGS", "Picture", "name_of", "open_image", "picture_from_array", "source_of"]

Picture = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]
"""What a user hands over: a path, a PIL picture, or an array (H, W, 3) or (H, W)."""

IMAGE_ENDINGS: frozenset[str] = frozenset(
    ".jpg .jpeg .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm".split() + [".avif"] * _HAS_AVIF
)
"""File endings, in lower case, that count as pictures when a folder is read."""


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """JPEG, and of a multi-picture file (MPO) the first picture; does not parse the EXIF block on opening."""

    def _read_dpi_from_exif(self) -> None:
        pass  # Pillow looks for a resolution here, and warns where the block is broken


_READERS: list[type[ImageFile.ImageFile]] = [
    _Jpeg,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
    PpmImagePlugin.PpmImageFile,
]
if _HAS_AVIF:
    _READERS.append(AvifImagePlugin.AvifImageFile)
_FORMATS = ", ".join(str(reader.format) for reader in _READERS)


def open_image(source: Source | str, *, min_side: int | None = None, name: str | None = None) -> Image.Image:
    """Read one picture as upright RGB.

    The EXIF orientation is applied. Transparent pixels are laid on white. Of an animation or a multi-page
    file the first picture is taken. 16-bit grey is scaled from 0..65535 to 0..255; wider integer and float
    grey by the smallest of the usual ranges (0..1 and 0..255 for floats, 0..65535) that holds all values,
    else from its own minimum and maximum.

    Args:
        source: A file, the bytes of one, or a picture in memory (which is not changed).
        min_side: Size in pixels, 1 or more, that the shorter side must keep. A big JPEG is then decoded
            straight to a half, a quarter or an eighth, many times faster. Other formats come in full size.
        name: What errors call the picture; by default the path.

    Returns:
        A new picture of mode "RGB".

    Raises:
        ImageError: If the file is missing, closed to the reader, not a picture, damaged, or too big to be
            meant.
        ConfigError: If ``min_side`` is below 1.
    """
    if min_side is not None and min_side < 1:
        raise ConfigError(f"min_side is {min_side}: give a number of pixels, 1 or more")
    if isinstance(source, Image.Image):
        return _finish(source, name or getattr(source, "filename", "") or "picture in memory")
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), len(source), min_side, name or "picture in memory")
    name = name or str(source)
    try:
        status = os.stat(source)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a plain file"
            raise ImageError(f"{name}: this is {kind}: give the path of an image file")
        with open(source, "rb") as stream:
            return _decode(stream, status.st_size, min_side, name)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file: check the path") from None
    except PermissionError:
        raise ImageError(f"{name}: no permission to read this file: make it readable, or remove it") from None
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{name}: the file cannot be opened ({error}): check the path and the disk"
        ) from error


def name_of(picture: Picture, place: int) -> str:
    """Return what messages call the picture at a place of a list."""
    return str(picture) if isinstance(picture, (str, os.PathLike)) else f"image {place}"


def source_of(picture: Picture) -> Source:
    """Return where a picture's pixels are; those of an array are copied."""
    if isinstance(picture, (str, os.PathLike)):
        return Path(picture)
    return picture_from_array(picture) if isinstance(picture, np.ndarray) else picture


def picture_from_array(array: Any, name: str = "array") -> Image.Image:
    """Turn a numpy array into a picture.

    Args:
        array: (H, W, 3) RGB or (H, W) grey, dtype uint8, values 0..255.
        name: What errors call the array.

    Returns:
        An RGB picture with its own copy of the pixels.

    Raises:
        ImageError: If shape or dtype are others.
    """
    values = np.asarray(array)
    shaped = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
    if not shaped or values.dtype != np.uint8 or values.size == 0:
        raise ImageError(
            f"{name}: an array of shape {values.shape} and dtype {values.dtype} is not a picture: "
            "give uint8 values 0..255 of shape (height, width, 3) or (height, width)"
        )
    return Image.fromarray(np.ascontiguousarray(values)).convert("RGB")


def _decode(stream: BinaryIO, size: int, min_side: int | None, name: str) -> Image.Image:
    """Read one picture from an open file of ``size`` bytes."""
    if size == 0:
        raise ImageError(f"{name}: the file is empty (0 bytes): copy it again, or remove it")
    try:
        picture = _identify(stream)
    except Exception as error:
        raise _damaged(name, error) from error
    if picture is None:
        raise ImageError(
            f"{name}: this is not a picture in a format that can be read ({_FORMATS}), "
            "whatever its ending says: convert it, or remove it"
        )
    width, height = picture.size
    limit = 2 * (Image.MAX_IMAGE_PIXELS or float("inf"))  # where Pillow itself refuses; None there: no limit
    if width * height > limit:
        raise ImageError(
            f"{name}: {width} x {height} pixels are more than the {limit} that are read (a guard against "
            "decompression bombs): scale the picture down, or raise PIL.Image.MAX_IMAGE_PIXELS"
        )
    if min_side is not None:
        picture.draft(None, (min_side, min_side))  # keeps both sides >= min_side; does nothing but for JPEG
    return _finish(picture, name)


def _identify(stream: BinaryIO) -> ImageFile.ImageFile | None:
    """Read a file's header with the reader that knows its first bytes; ``None`` where none does."""
    head = stream.read(16)
    for reader in _READERS:
        accepts = Image.OPEN[str(reader.format)][1]
        if accepts is not None and accepts(head) is True:
            stream.seek(0)
            return reader(stream, "")
    return None


def _finish(picture: Image.Image, name: str) -> Image.Image:
    """Decode, turn upright and convert to RGB."""
    try:
        picture.load()
        if 0 in picture.size:
            raise ValueError(f"its size is {picture.width} x {picture.height}")
        return _rgb(_upright(picture))
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> ImageError:
    reason = str(error) or type(error).__name__
    return ImageError(
        f"{name}: the picture is damaged, cut short or of an unknown kind ({reason}): replace or remove it"
    )


def _upright(picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a broken EXIF block counts as none. Returns a copy in any case."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # metadata only: the pixels are already there
        return picture.copy()


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(_bytes_of_grey(np.asarray(picture), floats=picture.mode == "F")).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("LA") if picture.mode == "La" else picture  # La converts to LA only
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        return white.convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _bytes_of_grey(values: npt.NDArray[Any], *, floats: bool) -> npt.NDArray[np.uint8]:
    """Scale grey values of more than 8 bits, (H, W), to 0..255; what is not a finite number counts as 0."""
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    fitting = [top for top in ([1.0, 255.0, 65535.0] if floats else [65535.0]) if low >= 0 and high <= top]
    low, high = (0.0, fitting[0]) if fitting else (low, high)
    span = (high - low) or 1.0  # one value all over, outside every usual range: black
    scaled: npt.NDArray[np.uint8] = np.rint((grey - low) * (255 / span)).astype(np.uint8)
    return scaled
