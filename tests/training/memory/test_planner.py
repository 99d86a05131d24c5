from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora.core.errors import ConfigError
from blocklora.core.resources import format_bytes
from blocklora.core.threads import results_held
from blocklora.training.memory import planner
from blocklora.training.memory.costs import TowerShape
from blocklora.training.memory.planner import ModelShape, Workload, choose_plans, price
from blocklora.training.step import Plan

RANKS = (6, 0, 0, 0)
MODEL = ModelShape(
    vision=TowerShape(768, 3072, 12, 12, 0, RANKS),
    text=TowerShape(512, 2048, 12, 8, 0, RANKS),
    tokens=197,
    side=224,
    space=512,
    parameters=149_620_737,
    trained=184_320,
)
LENGTHS = [8] * 246 + [9] * 508 + [10] * 155 + [11] * 49 + [12] * 24 + [13] * 9 + [14] * 7 + [15] + [18]


def work(classes: int = 1000, images: int = 32, **more: object) -> Workload:
    lengths = tuple((LENGTHS * (-(-classes // 1000)))[:classes])
    return Workload(MODEL, images, lengths, 5, **more)


def untrained(tower: str) -> Workload:
    shape = getattr(MODEL, tower)
    model = replace(MODEL, **{tower: replace(shape, first=shape.layers, ranks=(0, 0, 0, 0))})
    return replace(work(), model=model, image_features=tower == "vision")


def test_much_memory_and_the_fastest_plan() -> None:
    assert choose_plans(work(), 10**12)[0].plan == Plan()


def test_the_fastest_that_fits_and_no_other() -> None:
    job = work()
    every = [(plan, price(job, plan)) for plan in planner._candidates(job)]
    assert len({plan for plan, _ in every}) == len(every)
    for room in (3 * 10**9, 15 * 10**8, 9 * 10**8, 5 * 10**8):
        chosen = choose_plans(job, room)[0]
        assert chosen.need == price(job, chosen.plan)
        assert chosen.need.step <= room
        for _, need in every:
            assert need.step > room or need.flops >= chosen.need.flops * 0.9  # passes cost something too


@given(st.integers(250 * 10**6, 20 * 10**9), st.integers(0, 3 * 10**9))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_more_memory_is_never_slower_and_no_plan_exceeds_it(room: int, more: int) -> None:
    job = work(300)
    chosen = choose_plans(job, room)
    assert chosen[0].need.step <= room
    wider = choose_plans(job, room + more)
    assert planner._seconds(job, wider[0]) <= planner._seconds(job, chosen[0])
    for one, following in pairwise(chosen):  # where memory runs out all the same
        assert following.need.step <= 0.75 * one.need.step
        assert planner._seconds(job, following) >= planner._seconds(job, one)
    smallest = min(price(job, plan).step for plan in planner._candidates(job))
    assert chosen[-1].need.step * 0.75 < smallest  # down to where nothing smaller is


def test_the_levels_in_their_order() -> None:
    """With less and less room: the MLPs' insides go first, then blocks, then classes are cut."""
    job, room, seen = work(), 10**11, []
    while True:
        try:
            chosen = choose_plans(job, room)[0]
        except ConfigError:
            break
        seen.append(chosen)
        room = chosen.need.step - 1
    assert seen[0].plan == Plan()
    assert seen[-1].plan.chunk
    assert seen[-1].plan.micro_batch == 1
    seconds = [planner._seconds(job, one) for one in seen]
    assert seconds == sorted(seconds)
    assert {one.plan.texts for one in seen} == {"all", "no-mlp", "inputs"}
    assert seen[-1].need.step < 0.05 * seen[0].need.step


def test_an_impossible_limit() -> None:
    smallest = min(price(work(), plan).step for plan in planner._candidates(work()))
    assert choose_plans(work(), smallest)
    with pytest.raises(ConfigError) as caught:
        choose_plans(work(), smallest - 1)
    assert str(caught.value) == (
        f"the smallest plan needs {format_bytes(smallest)} beside the weights and what is in use already, and "
        f"{format_bytes(smallest - 1)} is left: allow more memory, take a smaller model, or 16 bits on a GPU."
    )


def test_prices() -> None:
    job = work()
    whole, cut = price(job, Plan()), price(job, Plan(chunk=250, micro_batch=8))
    assert whole.flops < cut.flops < 1.5 * whole.flops  # text goes forward twice
    assert cut.step < 0.4 * whole.step
    assert cut.saved < 0.4 * whole.saved
    half = price(replace(job, number=2), Plan())
    assert 0.5 < half.step / whole.step < 0.6
    assert price(job, Plan(micro_batch=100)) == price(job, Plan(micro_batch=32))
    assert price(replace(job, opening=0), Plan()).flops > 1.2 * whole.flops
    for keep in ("no-mlp", "inputs"):
        less = price(job, Plan(keep, keep))
        assert less.saved < whole.saved
        assert less.step < whole.step
        assert less.flops > whole.flops


def test_a_text_tower_that_is_not_trained() -> None:
    """Its features are computed once: no FLOPs in a step, and passes that cost nothing after that."""
    job = replace(untrained("text"), lengths=work(20_000).lengths)
    assert not job.trains_text
    assert price(job, Plan()).flops == price(job, Plan(chunk=8)).flops
    assert price(job, Plan(chunk=500, micro_batch=1)).step < 0.5 * price(job, Plan(micro_batch=1)).step
    assert choose_plans(job, 2 * 10**9)[0].plan.chunk  # all prompts at once would not fit


def test_images_that_come_as_features() -> None:
    """They are computed once, and that must fit too."""
    job = untrained("vision")
    few = Plan("all", "inputs", 1, 8)
    assert price(job, few).flops < price(work(), few).flops / 2
    assert price(job, replace(few, micro_batch=None)).step > price(job, few).step + 31 * 197 * 10 * 768 * 4
    assert price(job, few).saved < price(work(), few).saved


def test_twenty_thousand_classes() -> None:
    job = work(20_000)
    plan = choose_plans(job, 4 * 10**9)[0].plan
    assert plan.chunk
    assert price(job, plan).step < 4 * 10**9


@pytest.mark.parametrize(("images", "classes"), [(1, 1), (1, 2), (3, 1), (2, 9)])
def test_very_small_jobs(images: int, classes: int) -> None:
    job = work(classes, images)
    plans = choose_plans(job, 10**12)
    assert plans[0].plan == Plan()
    assert all(one.plan.micro_batch is None or one.plan.micro_batch <= images for one in plans)


def test_a_process_is_larger_than_its_tensors() -> None:
    batch = 32 * 3 * 224 * 224 * 4
    for plan, factor in ((Plan(), 1.25 / 1.08), (Plan(micro_batch=8), 1.8 / 1.08)):
        tensors, process = price(work(), plan), price(work(on_cpu=True, read_ahead=1), plan)
        assert process.flops == tensors.flops
        assert 1 < process.step / tensors.step < factor
        assert (tensors.host, process.host) == (4 * batch, 0)


@pytest.mark.parametrize("cores", [1, 2, 8, 16, 64])
def test_images_read_ahead_are_counted_where_they_are(cores: int) -> None:
    """As many batches as exist: in the process on a CPU; on a GPU one is there, and all are in host memory."""
    batch, held = 32 * 3 * 224 * 224 * 4, results_held(cores)
    process = price(work(on_cpu=True, read_ahead=held), Plan())
    assert process.step - price(work(on_cpu=True, read_ahead=0), Plan()).step == held * batch
    gpu = price(work(read_ahead=held), Plan())
    assert gpu.host == held * batch
    assert gpu.step == price(work(read_ahead=0), Plan()).step
