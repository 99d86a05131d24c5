"""ProGrad's aligned gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_task import fit

from blocklora.core.errors import ConfigError
from blocklora.methods import Job
from blocklora.methods.prompts.prograd import aligned


@given(st.integers(0, 10**6), st.floats(0, 2))
def test_aligned_gradients(seed: int, weight: float) -> None:
    gradient, general = torch.randn(
        2, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    found = aligned(gradient, general, weight)
    dot = sum(float(a) * float(b) for a, b in zip(gradient.flatten(), general.flatten(), strict=True))
    if dot >= 0:
        assert torch.equal(found, gradient)
    else:
        along = dot / float((general**2).sum())
        torch.testing.assert_close(found, gradient - weight * along * general)
        if weight == 1.0:
            assert abs(float((found * general).sum())) < 1e-9
    assert torch.equal(aligned(gradient, torch.zeros_like(general), weight), gradient)


def test_a_negative_weight_is_refused(job: Job) -> None:
    with pytest.raises(ConfigError, match=r"weight '-1\.0': expected 0 or a positive number"):
        fit(job, "prograd", weight=-1.0)
