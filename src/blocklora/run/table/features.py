"""Features of a table's images as a .npy file that grows row by row and is never whole in memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

__all__ = ["FeatureRows"]


class FeatureRows:
    """Rows of float32, one an image; those of images that cannot be read are NaN.

    Args:
        path: The file to make. Until ``finish`` it has ".part" behind its name.
        n: How many rows there will be.
        width: D, the numbers of a row.
        n_done: How many are there already; what stands behind them is cut off.
    """

    def __init__(self, path: Path, n: int, width: int, n_done: int) -> None:
        self._path, self._part = path, part_of(path)
        self._width = width
        if n_done == n and not self._part.exists():  # killed after it was finished
            return
        with open(self._part, "r+b" if n_done else "wb") as stream:
            if not n_done:
                header = {"descr": "<f4", "fortran_order": False, "shape": (n, width)}
                npy.write_array_header_1_0(stream, header)
            else:
                npy.read_magic(stream)
                npy.read_array_header_1_0(stream)
            stream.truncate(stream.tell() + n_done * width * 4)

    def append(self, n: int, kept: list[int], features: NDArray[np.float32]) -> None:
        """Write a batch, and return when it is on the disk.

        Args:
            n: B, the images of the batch.
            kept: Which of them could be read (M,).
            features: (M, D).
        """
        rows = np.full((n, self._width), np.nan, "<f4")
        if kept:
            rows[kept] = features
        with open(self._part, "ab") as stream:
            stream.write(rows.tobytes())
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self) -> None:
        """Give the file its name."""
        if self._part.exists():
            os.replace(self._part, self._path)


def part_of(path: Path) -> Path:
    """Return where the file is until it is whole."""
    return path.with_name(f"{path.name}.part")
