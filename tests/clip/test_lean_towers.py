"""The lean towers against transformers' and PEFT's own forward: features, logits and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import Tensor

from blocklora.adapter import BlockLoraConfig
from blocklora.clip.lean import LeanTower
from blocklora.clip.text_plan import text_plan
from blocklora.clip.towers import LeanTowers

LEAVES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj", "fc1": "fc1", "fc2": "fc2"}
KEEPS = ("all", "no-mlp", "inputs")
TOWERS = ("vision", "text")
KINDS = {
    "blocks": lambda **more: BlockLoraConfig(r=4, n_blocks=2, lora_alpha=3, init_weights=False, **more),
    "folded": lambda **more: BlockLoraConfig(
        r=4, n_blocks=2, init_weights=False, parametrization="folded", **more
    ),
    "arm": lambda **more: BlockLoraConfig(r=4, n_blocks=2, init_weights=False, arm_dropout=True, **more),
    "lora": lambda **more: LoraConfig(r=3, lora_alpha=2, init_lora_weights=False, **more),
    "rslora": lambda **more: LoraConfig(r=2, use_rslora=True, init_lora_weights=False, **more),
}


def config(kind: str, targets: Any, *, towers: Any = TOWERS, layers: Any = range(9), **more: Any) -> Any:
    """An adapter on some layers of some blocks of some towers."""
    blocks, leaves = "|".join(map(str, layers)), "|".join(LEAVES[target] for target in targets)
    pattern = rf".*({'|'.join(towers)})_model\..*layers\.({blocks})\..*({leaves})"
    return KINDS[kind](target_modules=pattern, **more)


def lean(case: Any, keep: Any = "all", share: bool = True) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Logits and gradients of the mean cross-entropy by the lean towers."""
    towers = LeanTowers(case.model, prefix_sharing=share)
    ((_, one_pass),) = towers.passes(case.tokens)
    image = towers.images(case.pixels, keep=keep)
    text = towers.texts(one_pass, keep=keep)[towers.passes(case.tokens)[0][0].argsort()]
    logits = case.model.logit_scale.exp() * image @ text.T
    F.cross_entropy(logits, case.labels % logits.shape[1]).backward()
    return logits.detach(), case.gradients()


def assert_close(one: Any, other: Any, of_logits: float = 1e-12, of_gradients: float = 1e-12) -> None:
    """Compare logits and gradients, relative to the largest number of each tensor; 1e-15 counts as zero."""
    (logits, gradients), (wanted, wanted_gradients) = one, other
    assert (logits - wanted).abs().max() <= of_logits * wanted.abs().max()
    assert gradients.keys() == wanted_gradients.keys()
    assert gradients
    for name, gradient in gradients.items():
        reference = wanted_gradients[name]
        assert (gradient is None) == (reference is None), name
        if reference is not None:
            error = (gradient - reference).abs().max()
            assert error <= of_gradients * reference.abs().max() + 1e-15, (name, float(error))


@given(
    kind=st.sampled_from(list(KINDS)),
    targets=st.sets(st.sampled_from(list(LEAVES)), min_size=1),
    towers=st.sampled_from([TOWERS, TOWERS[:1], TOWERS[1:]]),
    layers=st.sets(st.integers(0, 2), min_size=1),
    keep=st.sampled_from(KEEPS),
    share=st.booleans(),
    act=st.sampled_from(["quick_gelu", "gelu"]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_adapter_is_exact(
    random_clip: Any, kind: str, targets: Any, towers: Any, layers: Any, keep: str, share: bool, act: str
) -> None:
    case = random_clip(config(kind, sorted(targets), towers=towers, layers=sorted(layers)), act=act)
    assert_close(lean(case, keep, share), case.reference())


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("targets", [*([name] for name in LEAVES), list(LEAVES)], ids="-".join)
def test_every_layer_alone_and_all_of_them_under_every_level(
    random_clip: Any, targets: Any, act: str
) -> None:
    case = random_clip(config("blocks", targets), act=act)
    reference = case.reference()
    for keep in KEEPS:
        assert_close(lean(case, keep), reference)


@pytest.mark.parametrize("layers", [[0], [2], [1, 2], [0, 1], [0, 2]], ids=str)
@pytest.mark.parametrize("keep", KEEPS)
def test_any_layers_of_the_tower(random_clip: Any, layers: list[int], keep: str) -> None:
    case = random_clip(config("lora", ["q", "v", "fc1"], layers=layers))
    assert_close(lean(case, keep), case.reference())


@pytest.mark.parametrize("keep", KEEPS)
def test_several_active_adapters(random_clip: Any, keep: str) -> None:
    for kind in ("lora", "blocks"):
        parts = [
            config(kind, ["q", "v", "fc2"]),
            config(kind, ["v", "k", "out"]),
            config(kind, ["fc1"], layers=[1]),
        ]
        case = random_clip(*parts)
        case.model.requires_grad_(False)
        for name, parameter in case.model.named_parameters():  # PEFT leaves all but one of them frozen
            parameter.requires_grad_("lora_" in name)
        assert_close(lean(case, keep), case.reference())


def test_single_precision(random_clip: Any) -> None:
    for kind in ("blocks", "lora"):
        case = random_clip(config(kind, list(LEAVES)), dtype=torch.float32)
        reference = case.reference()
        for keep in KEEPS:
            assert_close(lean(case, keep), reference, 1e-5, 5e-5)


@pytest.mark.parametrize(
    "lengths",
    [[4], [2, 2], [0, 9], [3, 1, 2, 3], [9, 9, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9]],
    ids=lambda lengths: "-".join(map(str, lengths)),
)
@pytest.mark.parametrize("share", [True, False])
def test_ragged_prompts(random_clip: Any, lengths: list[int], share: bool) -> None:
    case = random_clip(config("blocks", ["q", "k", "v"]))
    case.tokens = case.prompts(lengths, torch.Generator().manual_seed(4))
    assert_close(lean(case, share=share), case.reference())


def test_equal_names_prompts_that_are_only_an_opening_and_nothing_in_common(random_clip: Any) -> None:
    case = random_clip(config("blocks", ["q", "k", "v"]))
    same = case.prompts([3, 3], torch.Generator().manual_seed(4))[:1].expand(3, -1)
    other = same.clone()
    other[:, 5:] = 99  # one prompt ends within the opening of the others
    strange = other.clone()
    strange[:, 0] = 40
    bare = torch.full_like(same, 99)  # nothing but an end-of-text token
    for rows in ((same,), (same, other[:1]), (same[:1], strange[:1]), (same, bare[:1]), (bare,)):
        case.tokens = torch.cat(rows)
        for share in (True, False):
            assert_close(lean(case, share=share), case.reference())


def test_openais_first_configurations(random_clip: Any) -> None:
    case = random_clip(config("blocks", ["q", "k", "v"]), eos=2)
    assert case.model.text_model.eos_token_id == 2
    case.tokens[0, 2] = 2  # a token of its own there, not the end
    assert_close(lean(case), case.reference())


def test_passes_in_any_order_of_lengths(random_clip: Any) -> None:
    case = random_clip(config("blocks", ["q", "k", "v"]))
    draw = torch.Generator().manual_seed(4)
    for lengths in ([9, 1, 5, 5, 2, 9, 1], [1, 2, 3], [3, 2, 1]):
        case.tokens = case.prompts(lengths, draw)
        wanted = F.normalize(case.model.get_text_features(input_ids=case.tokens).pooler_output, dim=-1)
        for chunk in (None, 1, 2, 3, 50):
            for share in (True, False):
                towers = LeanTowers(case.model, prefix_sharing=share)
                passes = towers.passes(case.tokens, chunk)
                assert all(len(rows) <= (chunk or 50) for rows, _ in passes)
                found = torch.empty_like(wanted)
                for rows, one_pass in passes:
                    found[rows] = towers.texts(one_pass).detach()
                assert (found - wanted).abs().max() <= 1e-12


def test_frozen_blocks_below_the_first_adapter_keep_nothing(random_clip: Any) -> None:
    case = random_clip(config("lora", ["q"], layers=[2]))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        LeanTowers(case.model).images(case.pixels)
    wide = sum(tensor.shape[1:] == (80,) for tensor in kept)  # the inside of MLPs
    assert wide == 1


def test_no_gradient_no_graph(random_clip: Any) -> None:
    case = random_clip(config("blocks", ["q"]))
    towers = LeanTowers(case.model)
    ((_, one_pass),) = towers.passes(case.tokens)
    with torch.no_grad():
        for keep in KEEPS:
            assert not towers.images(case.pixels, keep=keep).requires_grad
            assert not towers.texts(one_pass, keep=keep).requires_grad


def test_one_tower_of_a_model_that_has_only_one(random_clip: Any) -> None:
    case = random_clip(config("blocks", ["q", "fc1"]))
    tower = LeanTower(case.model.vision_model, case.model.visual_projection)
    wanted = F.normalize(case.model.get_image_features(pixel_values=case.pixels).pooler_output, dim=-1)
    torch.testing.assert_close(tower.images(case.pixels), wanted, rtol=0, atol=1e-13)


def test_what_is_trained(random_clip: Any) -> None:
    case = random_clip(config("blocks", ["q", "v", "fc2"], towers=["text"], layers=[1, 2]))
    assert LeanTowers(case.model).trained == {"vision": ([], (0, 0, 0, 0)), "text": ([1, 2], (4, 0, 0, 2))}
    case = random_clip(config("arm", ["k", "out"], lora_dropout=0.5), config("arm", ["out"]))
    _, ranks = LeanTowers(case.model).trained["vision"]
    assert ranks == (
        4,
        6,
        0,
        0,
    )  # an arm with masks of its own is a term of its own; the second drops nothing


def test_features_of_a_plan_have_the_order_of_the_prompts(random_clip: Any) -> None:
    case = random_clip(config("blocks", ["q"]))
    tower = LeanTower(case.model.text_model, case.model.text_projection)
    with torch.no_grad():
        found = tower.texts(text_plan(case.tokens, 99, share=True))
    wanted = F.normalize(case.model.get_text_features(input_ids=case.tokens).pooler_output, dim=-1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("p", [0.25, 0.3])
def test_a_training_step_on_every_device(random_clip: Any, device: str, keep: str, p: float) -> None:
    case = random_clip(config("blocks", list(LEAVES), lora_dropout=p), dtype=torch.float32)
    case.model.to(device)
    case.pixels, case.labels = case.pixels.to(device), case.labels.to(device)
    case.model.train()
    first, again = lean(case, keep), lean(case, keep)
    assert_close(first, again, 1e-5, 1e-4)  # the seed decides the masks
    assert all(gradient is not None and gradient.isfinite().all() for gradient in first[1].values())
    dropped, _ = first
    case.model.eval()
    assert not torch.allclose(lean(case, keep)[0], dropped)
    on_cpu = [part.cpu() for part in (case.pixels, case.labels)]
    logits = lean(case, keep)[0].cpu()
    case.model.cpu()
    case.pixels, case.labels = on_cpu
    assert_close((logits, {"none": None}), (lean(case, keep)[0], {"none": None}), 1e-4)
