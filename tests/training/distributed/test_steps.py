"""A step that real processes share: the loss and the gradient of one process, dropout included."""

from __future__ import annotations

from pathlib import Path

import pytest
import rank_work
import torch
from safetensors.torch import load_file


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shared_steps_have_the_gradient_of_one_process(count: int, tmp_path: Path) -> None:
    """Of 5 images and 6 classes; 7 processes leave some without any."""
    assert rank_work.processes("steps", count, str(tmp_path)) == [0] * count
    for place, name in enumerate(rank_work.CASES):
        alone = rank_work.step_of(name)
        found = [load_file(tmp_path / f"{place}.{rank}.safetensors") for rank in range(count)]
        assert all(one.keys() == alone.keys() for one in found)
        if rank_work.CASES[name][2] == torch.float32:
            wanted, own = (torch.cat([one[key].flatten() for key in alone]) for one in (alone, found[0]))
            assert (own - wanted).norm() <= 1e-6 * wanted.norm(), name
            continue
        for key, expected in alone.items():
            assert (found[0][key] - expected).abs().max() <= 1e-10 * expected.abs().max(), (name, key)
            assert all(torch.equal(one[key], found[0][key]) for one in found), (name, key)
