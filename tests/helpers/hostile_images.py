"""Files that a service must survive: what each is, its bytes, and the statuses that are right for it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image
from small_service import encoded

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
TAKEN, REFUSED, UNKNOWN, TOO_BIG = (200,), (422,), (415,), (413,)


def png_of(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    """Return a PNG that says it has this size, with these compressed bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def photo(side: int = 60) -> Image.Image:
    """Return an image with something in it."""
    values = np.arange(side * side * 3).reshape(side, side, 3) * 7 % 251
    return Image.fromarray(values.astype(np.uint8))


def hostile_images() -> dict[str, tuple[bytes, tuple[int, ...]]]:
    """Return the files by name, with the statuses that are right."""
    jpeg, whole_png = encoded(photo(), "JPEG"), encoded(photo(), "PNG")
    frames = [Image.new("P", (40, 40), n) for n in range(30)]
    tags = Image.Exif()
    tags[0x0112] = 77  # an orientation that there is not
    bomb = zlib.compress(bytes(1_000_000), 9)
    return {
        "nothing": (b"", REFUSED),
        "one byte": (b"\xff", UNKNOWN),
        "zero bytes": (bytes(10_000), UNKNOWN),
        "text": (b"cat" * 999, UNKNOWN),
        "JSON": (b'{"images": []}', UNKNOWN),
        "HTML": (b"<!doctype html><script>alert(1)</script>", UNKNOWN),
        "SVG": (SVG, UNKNOWN),
        "PDF": (b"%PDF-1.7\n%\xe2\xe3", UNKNOWN),
        "ZIP": (b"PK\x03\x04" + bytes(60), UNKNOWN),
        "program": (b"\x7fELF" + bytes(60), UNKNOWN),
        "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), UNKNOWN),
        "AVIF of nothing": (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(400), (415, 422)),
        "JPEG, its first bytes": (jpeg[:20], REFUSED),
        "JPEG, half": (jpeg[: len(jpeg) // 2], REFUSED),
        "JPEG, without its end": (jpeg[:-2], (200, 422)),
        "JPEG, spoilt": (jpeg[:300] + bytes(200) + jpeg[500:], (200, 422)),
        "JPEG and a page": (jpeg + SVG, TAKEN),
        "JPEG and a ZIP": (jpeg + b"PK\x03\x04" + bytes(99), TAKEN),
        "JPEG with wrong EXIF": (encoded(photo(), "JPEG", exif=tags), TAKEN),
        "JPEG with broken EXIF": (encoded(photo(), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 20), TAKEN),
        "GIF and a page": (b"GIF89a" + SVG, REFUSED),
        "PNG, half": (whole_png[: len(whole_png) // 2], REFUSED),
        "PNG, spoilt": (whole_png[:60] + bytes(50) + whole_png[110:], REFUSED),
        "PNG, its header": (whole_png[:20], REFUSED),
        "PNG of 0 x 0": (png_of(0, 0), REFUSED),
        "PNG of no data": (png_of(9, 9), REFUSED),
        "PNG that says 60,000 x 60,000": (png_of(60_000, 60_000, bomb), TOO_BIG),
        "PNG that says 2**31 - 1": (png_of(2**31 - 1, 2**31 - 1, bomb), (413, 422)),
        "PNG of 50,000 x 1": (encoded(Image.new("L", (50_000, 1)), "PNG"), TAKEN),
        "PNG of 1 x 50,000": (encoded(Image.new("L", (1, 50_000)), "PNG"), TAKEN),
        "PNG of 4,000 x 4,000 zeros": (encoded(Image.new("1", (4000, 4000)), "PNG"), TAKEN),
        "PNG of 16 bits": (
            encoded(Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30)), "PNG"),
            TAKEN,
        ),
        "PNG with a bomb of text": (whole_png[:33] + text_bomb() + whole_png[33:], (200, 422)),
        "PNG of grey and alpha": (encoded(Image.new("LA", (30, 30)), "PNG"), TAKEN),
        "GIF, animated": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), TAKEN),
        "WebP, animated": (encoded(photo(), "WEBP", save_all=True, append_images=[photo(), photo()]), TAKEN),
        "WebP, half": (encoded(photo(), "WEBP")[:60], REFUSED),
        "TIFF of floats": (encoded(Image.new("F", (9, 9), 0.5), "TIFF"), TAKEN),
        "TIFF of many pages": (encoded(photo(), "TIFF", save_all=True, append_images=[photo()] * 20), TAKEN),
        "TIFF that leads to itself": (
            b"II*\0\x08\0\0\0\x01\0\0\x01\x03\0\x01\0\0\0\x09\0\0\0\x08\0\0\0",
            REFUSED,
        ),
        "BMP that says it is large": (bmp(200_000, 200_000), TOO_BIG),
        "BMP of CMYK's friend": (encoded(photo().convert("P"), "BMP"), TAKEN),
        "JPEG of CMYK": (encoded(photo().convert("CMYK"), "JPEG"), TAKEN),
        "PPM that says more than it has": (b"P6 90 90 255\n" + bytes(9), REFUSED),
        "PPM of huge numbers": (b"P6 " + b"9" * 900 + b" 1 255\n", REFUSED),
    }


def text_bomb() -> bytes:
    """Return a PNG chunk of text that becomes 300 MB."""
    press = zlib.compressobj(9)
    packed = b"".join(press.compress(bytes(1_000_000)) for _ in range(300)) + press.flush()
    content = b"Comment\0\0" + packed
    return (
        struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    )


def bmp(width: int, height: int) -> bytes:
    """Return a BMP that says it has this size."""
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "BMP")
    content = bytearray(stream.getvalue())
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)
