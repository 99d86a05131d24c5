"""How many fixed views there are, where they are kept, and what they lead to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_task import fit, make_job, make_task

from blocklora.clip import Clip
from blocklora.core.deadline import Deadline
from blocklora.core.errors import ConfigError
from blocklora.core.resources import Resources
from blocklora.methods import FitResult, Job, make_settings
from blocklora.methods.adapters.settings import AdapterSettings
from blocklora.training import Checkpoint

TOP: dict[str, Any] = {"iterations": 6, "lr": 1e-2, "layers": "top-1", "batch_size": 3}


def adapter_of(result: FitResult) -> torch.Tensor:
    assert result.classifier.adapter is not None
    parameters = result.classifier.adapter.named_parameters()
    return torch.cat([value.flatten() for name, value in parameters if "blocklora" in name])


def test_one_view_that_never_changes_is_the_image_itself(job: Job) -> None:
    """Without augmentation there is but one view, and only the rounding to 16 bits is left."""
    plain = fit(job, "block-lora", augment="none", **TOP)
    cached = fit(job, "block-lora", augment="none", cached_views=3, **TOP)
    assert plain.training is not None
    assert cached.training is not None
    torch.testing.assert_close(cached.training.losses, plain.training.losses, rtol=2e-3, atol=0)
    assert not torch.equal(adapter_of(cached), adapter_of(plain))
    assert torch.equal(
        adapter_of(cached), adapter_of(fit(job, "block-lora", augment="none", cached_views=1, **TOP))
    )


def test_it_costs_less_and_is_said(job: Job) -> None:
    flops = {}
    for views in (None, 2, 0):
        result = fit(job, "block-lora", cached_views=views, **TOP)
        assert result.engine is not None
        flops[views] = result.engine.memory["flops_per_step"]
        assert ("views of an image" in result.choices) is (views == 0)
    assert flops[0] == flops[2] < flops[None]


def test_a_tower_that_is_not_trained_is_encoded_whole(job: Job) -> None:
    result = fit(job, "block-lora", cached_views=2, towers="text", iterations=2, lr=1e-2)
    assert result.training is not None
    assert result.training.losses.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": "all"}, "cached_views 2: the first block of the image tower is adapted.*--layers top-N"),
        ({"engine": "plain", "layers": "top-1"}, "cached_views 2: needs the lean engine"),
    ],
)
def test_where_nothing_can_be_computed_beforehand(job: Job, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(job, "block-lora", cached_views=2, iterations=2, **settings)
    with pytest.raises(ConfigError, match="cached_views '-1': expected 0 or more"):
        make_settings("block-lora", AdapterSettings, {"cached_views": -1})


def views_of(result: FitResult) -> Any:
    return result.choices["views of an image"].value


def test_as_many_views_as_are_seen_and_a_run_keeps_their_number(clip: Clip, tmp_path: Path) -> None:
    job = make_job(make_task(clip), clip)
    kept = replace(job, checkpoint=Checkpoint(tmp_path / "state.safetensors", "this run"))
    first = views_of(fit(kept, "block-lora", cached_views=0, **TOP))
    assert 1 <= first <= 3  # six steps are three epochs
    assert kept.checkpoint is not None
    kept.checkpoint.path.unlink()
    hurried = replace(kept, deadline=Deadline(1e6), forward_seconds=1e9)  # there is no time for views now
    assert views_of(fit(hurried, "block-lora", cached_views=0, **TOP)) == first
    assert views_of(fit(replace(hurried, checkpoint=None), "block-lora", cached_views=0, **TOP)) == 1


def test_too_many_views_without_a_folder_for_them(job: Job) -> None:
    scarce = replace(job, resources=Resources(1, 10**8))
    with pytest.raises(ConfigError, match=r"cached_views 100000: needs .* ask for fewer"):
        fit(scarce, "block-lora", cached_views=100_000, **TOP)
