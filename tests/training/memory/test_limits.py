from __future__ import annotations

import json
import logging
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from PIL import Image

from blocklora.clip.towers import LeanTowers, PlainTowers
from blocklora.core.errors import ConfigError
from blocklora.core.resources import Resources, format_bytes
from blocklora.data import Example
from blocklora.training.images import TrainingImages
from blocklora.training.memory import limits as memory
from blocklora.training.memory.limits import MemoryPlan, parse_bytes, plan_memory
from blocklora.training.memory.planner import Need
from blocklora.training.step import Plan

CPU = torch.device("cpu")
FIRST = 110 * 10**6  # what is added to a counted step on a CPU


@pytest.fixture
def towers(random_clip: Any) -> LeanTowers:
    case = random_clip(LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    found = LeanTowers(case.model)
    found.tokens = case.tokens
    return found


@pytest.fixture
def training_images() -> TrainingImages:
    class Processor:
        do_center_crop = True
        size = {"shortest_edge": 16}  # noqa: RUF012
        crop_size = {"height": 16, "width": 16}  # noqa: RUF012

    examples = [Example(str(i), i % 3, Image.new("RGB", (100, 50))) for i in range(9)]
    return TrainingImages(examples, Processor(), batch_size=4, augment="crop", seed=0)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A machine with a fixed state: what is used, what is free, and the peak so far."""
    state = {"used": 500 * 10**6, "free": 8 * 10**9, "peak": 600 * 10**6}

    class Machine:
        def memory_info(self) -> Any:
            return type("Info", (), {"rss": state["used"]})

    monkeypatch.setattr(psutil, "Process", Machine)
    monkeypatch.setattr(memory, "available_resources", lambda share: Resources(2, state["free"]))
    monkeypatch.setattr(memory, "peak_memory_bytes", lambda device: state["peak"])
    return state


@given(st.integers(1, 10**6), st.sampled_from(["", "k", "K", "m", "G", "t"]), st.booleans(), st.booleans())
def test_parse_bytes(amount: int, prefix: str, two: bool, b: bool) -> None:
    power = "kmgt".index(prefix.lower()) + 1 if prefix else 0
    binary = two and bool(prefix)
    text = f"{amount}{prefix}{'i' if binary else ''}{'B' if b else ''}"
    assert parse_bytes(text) == amount * (1024 if binary else 1000) ** power
    assert parse_bytes(f"  {amount} {text.removeprefix(str(amount))}  ") == parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1.5GB", 1_500_000_000),
        ("0.5 GiB", 2**29),
        ("24g", 24 * 10**9),
        ("800 MB", 8 * 10**8),
        ("123456", 123456),
    ],
)
def test_amounts_of_memory(text: str, wanted: int) -> None:
    assert parse_bytes(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "GB", "24XB", "-1GB", "1e9", "0", "0GB", "0.4", "1,5GB", "24GBGB", "nan", "24 G i B", "ten"]
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bytes(text)
    assert str(caught.value) == f"memory '{text}': expected an amount such as 24GB, 8GiB or 800MB."


@given(st.from_regex(r"\A\s*[0-9.]{0,3}[kKmMgiIbB ]{0,3}\Z"))
@settings(max_examples=60)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_bytes(text)
    except ConfigError:
        found = None
    assert found is None or found > 0


def test_a_plan_for_what_is_free(
    towers: Any, training_images: TrainingImages, caplog: pytest.LogCaptureFixture, machine: dict[str, int]
) -> None:
    caplog.set_level(logging.INFO)
    plan = plan_memory(towers, towers.tokens, training_images, CPU, None)
    assert plan.plans[0] == Plan()
    assert plan.limit == int(machine["used"] + 0.9 * machine["free"])
    assert plan.need is not None
    decoded = 9 * 3 * 100 * 50
    assert plan.predicted == machine["used"] + decoded + plan.need.step + FIRST
    assert str(plan) == (
        f"plan: each block keeps everything; {plan.need.flops / 1e9:,.1f} GFLOP a step; peak memory about "
        f"{format_bytes(plan.predicted)} of {format_bytes(plan.limit)}"
    )
    assert caplog.messages == [f"engine: lean; {plan}"]


def test_freed_memory_goes_back_where_it_is_scarce(
    towers: Any, training_images: TrainingImages, machine: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(memory, "give_back_freed_memory", lambda: calls.append(1))
    plan_memory(towers, towers.tokens, training_images, CPU, None)
    assert not calls
    whole = plan_memory(towers, towers.tokens, training_images, CPU, "8GB")
    assert len(calls) == 1
    assert whole.need is not None
    machine["free"] = int((1.5 * whole.need.step + FIRST) / 0.9)  # the step takes two thirds of it
    plan_memory(towers, towers.tokens, training_images, CPU, None)
    assert len(calls) == 2


def test_a_limit_is_obeyed(towers: Any, training_images: TrainingImages, machine: dict[str, int]) -> None:
    whole = plan_memory(towers, towers.tokens, training_images, CPU, None)
    assert whole.need is not None
    limit = whole.predicted - whole.need.step // 3
    tight = plan_memory(towers, towers.tokens, training_images, CPU, str(limit))
    assert tight.limit == limit
    assert tight.predicted <= limit
    assert tight.plans[0] != Plan()
    assert tight.plans[0] != tight.plans[-1]
    machine["peak"] = 10**12  # loading the model took more than training will
    assert plan_memory(towers, towers.tokens, training_images, CPU, None).predicted == 10**12
    with pytest.raises(ConfigError, match=r"the smallest plan needs \d+ kB beside .*, and 0 B is left"):
        plan_memory(towers, towers.tokens, training_images, CPU, "600MB")


def test_images_are_kept_within_a_share(
    towers: Any, training_images: TrainingImages, machine: dict[str, int]
) -> None:
    machine["free"] = 10**9
    before = training_images.budget
    plan_memory(towers, towers.tokens, training_images, CPU, None)
    assert training_images.budget == int(0.25 * int(0.9 * 10**9)) < before
    plan_memory(towers, towers.tokens, training_images, CPU, "100GB")
    assert training_images.budget == int(0.25 * int(0.9 * 10**9))  # never more again
    with pytest.raises(ConfigError, match="the smallest plan needs"):
        plan_memory(towers, towers.tokens, training_images, CPU, "1MB")
    assert training_images.budget == 0


def test_the_ordinary_forward(
    towers: Any, training_images: TrainingImages, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plain = PlainTowers(towers.model, why="it is old")
    plan = plan_memory(plain, towers.tokens, training_images, CPU, None)
    halves = [(2, 3), (1, 2), (1, 1)]
    assert plan.plans == (Plan(), *(Plan(micro_batch=size, chunk=chunk) for size, chunk in halves))
    assert (plan.need, plan.predicted) == (None, 0)
    assert caplog.messages == ["engine: plain (it is old); plan: each block keeps everything"]
    with pytest.raises(ConfigError) as caught:
        plan_memory(plain, towers.tokens, training_images, CPU, "8GB")
    assert str(caught.value) == (
        "memory_limit '8GB': only the lean engine keeps to a limit, and this model runs on the ordinary forward: "
        "it is old; leave --memory-limit out."
    )
    with pytest.raises(ConfigError, match="the ordinary forward; leave --memory-limit out"):
        plan_memory(PlainTowers(towers.model), towers.tokens, training_images, CPU, "8GB")


def test_what_came_of_it(caplog: pytest.LogCaptureFixture, machine: dict[str, int]) -> None:
    caplog.set_level(logging.INFO)
    machine["peak"] = 1_900_000_000
    plan = MemoryPlan((Plan(),), Need(2e12, 10**9, 2 * 10**9), 3 * 10**9, 2 * 10**9, CPU)
    outcome = plan.outcome(Plan(chunk=8))
    assert json.loads(json.dumps(outcome)) == outcome
    assert outcome == {
        "plan": {
            "images": "all",
            "texts": "all",
            "micro_batch": None,
            "chunk": 8,
            "words": str(Plan(chunk=8)),
        },
        "flops_per_step": 2e12,
        "predicted_peak_bytes": 2 * 10**9,
        "measured_peak_bytes": 1_900_000_000,
        "limit_bytes": 3 * 10**9,
    }
    assert caplog.messages == ["peak memory: predicted 2.00 GB, measured 1.90 GB (-5%)"]
    caplog.clear()
    none = MemoryPlan((Plan(),), None, 3 * 10**9, 0, CPU).outcome(Plan())
    assert (none["flops_per_step"], none["predicted_peak_bytes"]) == (None, None)
    assert caplog.messages == []


def test_a_share_of_the_machine(
    towers: Any, training_images: TrainingImages, machine: dict[str, int]
) -> None:
    """Each of several workers plans with its own share, and counts the batches that its own cores read ahead."""
    whole = plan_memory(towers, towers.tokens, training_images, CPU, None, Resources(16, 8 * 10**9))
    quarter = plan_memory(towers, towers.tokens, training_images, CPU, None, Resources(4, 2 * 10**9))
    assert whole.limit == machine["used"] + int(0.9 * 8 * 10**9)
    assert quarter.limit == machine["used"] + int(0.9 * 2 * 10**9)
    side = towers.model.config.vision_config.image_size
    assert whole.need is not None
    assert quarter.need is not None
    assert whole.need.step - quarter.need.step == (10 - 4) * 4 * 3 * 4 * side**2


def test_on_a_gpu_host_memory_is_apart(
    towers: Any, training_images: TrainingImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 10**9)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 3 * 10**9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 * 10**9, 40 * 10**9))
    plan = plan_memory(towers, towers.tokens, training_images, gpu, None, Resources(16, 4 * 10**9))
    assert plan.limit == 10**9 + int(0.9 * 22 * 10**9)
    assert training_images.budget == 10**9
    assert plan.need is not None
    assert plan.predicted == 10**9 + plan.need.step  # neither decoded images nor those read ahead
    assert plan.need.host == 10 * 4 * 3 * 4 * towers.model.config.vision_config.image_size**2
