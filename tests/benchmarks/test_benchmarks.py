"""The engine's benchmarks: the targets that can be counted, counting itself, and the page's marks."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from blocklora.training.memory.planner import price
from blocklora.training.step import Plan

ROOT = Path(__file__).parents[2]


def test_prompt_lengths_are_those_of_imagenet(load) -> None:  # type: ignore[no-untyped-def]
    lengths = load("vit").lengths(1000)
    assert lengths[:5] == [9, 8, 10, 9, 10]
    expected = {8: 246, 9: 508, 10: 155, 11: 49, 12: 24, 13: 9, 14: 7, 15: 1, 18: 1}
    assert Counter(lengths) == expected
    assert load("vit").lengths(2500)[2000:] == lengths[:500]


def test_a_batch_has_prompts_of_those_lengths_and_a_common_opening(load) -> None:  # type: ignore[no-untyped-def]
    vit = load("vit")
    data = vit.batch("ViT-B/32", 2, 63)
    ends = (data.tokens == 49407).int().argmax(1) + 1
    assert ends.tolist() == vit.lengths(63)
    assert (data.tokens[:, : vit.OPENING] == data.tokens[0, : vit.OPENING]).all()
    assert data.pixels.shape == (2, 3, 224, 224)


@pytest.mark.parametrize("place", range(3))
def test_counts_meet_the_hard_targets(load, place: int) -> None:  # type: ignore[no-untyped-def]
    """From shapes; that these counts are those of the engine is what the planner's own tests show."""
    targets, vit = load("targets"), load("vit")
    shape = targets.SHAPES[place]
    work = vit.workload(targets.BACKBONE, shape.images, shape.classes)
    need = price(work, Plan())
    assert shape.flops / need.flops >= shape.fewer_flops
    assert shape.saved / need.saved >= shape.fewer_bytes
    assert need.flops / shape.frozen <= targets.OVER_FROZEN
    if shape.stands_for == "32:1000":
        assert shape.saved / price(work, Plan("inputs", "inputs")).saved >= targets.LOW_MEMORY


@pytest.mark.slow
def test_the_engine_meets_the_deterministic_targets(load) -> None:  # type: ignore[no-untyped-def]
    targets = load("targets")
    missed = [
        str(target) for part in (targets.counts(), targets.exactness()) for target in part if not target.met
    ]
    assert not missed


def test_counting_sees_in_place_products_and_distinct_storages_only(load) -> None:  # type: ignore[no-untyped-def]
    layer = nn.Linear(6, 5, bias=False)
    x = torch.randn(4, 6, requires_grad=True)

    def step() -> None:
        y = layer(x)  # keeps x and the weight
        z = y.sin() + y.cos()  # both keep y, one storage
        z.sum().backward()
        torch.zeros(4, 5).addmm_(torch.zeros(4, 7), torch.zeros(7, 5))

    counts = load("counting").count(step, layer)
    assert counts.flops == 3 * (2 * 4 * 6 * 5) + 2 * 4 * 7 * 5
    assert counts.saved == 4 * (4 * 6 + 4 * 5)


def test_a_target_that_is_not_a_number_is_missed(load) -> None:  # type: ignore[no-untyped-def]
    target = load("targets").Target
    assert target("t", 2.0, 2.0, True).met
    assert not target("t", 1.9, 2.0, True).met
    assert not target("t", float("nan"), 2.0, True).met
    assert not target("t", float("nan"), 2.0, False).met


def test_the_line_is_found_again(load) -> None:  # type: ignore[no-untyped-def]
    rows = [{"flops": flops, "seconds": 0.5 + flops / 4e10} for flops in (1e10, 3e10, 1e11, 5e11)]
    line = load("scaling").line(rows)
    assert line["overhead_seconds"] == pytest.approx(0.5)
    assert line["flops_per_second"] == pytest.approx(4e10)
    assert line["largest_deviation"] < 1e-9


def test_every_table_of_the_page_has_its_marks() -> None:
    page = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    marks = re.findall(r"<!-- (end of )?(\w+) -->", page)
    assert [name for end, name in marks if end] == [name for end, name in marks if not end]
    assert {name for _, name in marks} == {"targets", "levels", "scaling", "largest", "demo"}
