"""Which engine runs, and what it leaves of the model that it shares."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import IA3Config, LoraConfig, PeftModel, VeraConfig
from safetensors.torch import load_file, save_model
from torch import Tensor, nn
from transformers import CLIPModel, CLIPVisionModelWithProjection, SiglipConfig, SiglipModel

from blocklora.adapter import BlockLoraConfig
from blocklora.clip import load
from blocklora.clip.features import image_features, text_features
from blocklora.clip.lean import why_not_lean
from blocklora.clip.towers import LeanTowers, PlainTowers, make_towers, trains
from blocklora.core.errors import ConfigError

QKV = ["q_proj", "k_proj", "v_proj"]


def block_lora(**more: Any) -> BlockLoraConfig:
    return BlockLoraConfig(**{"r": 4, "n_blocks": 2, "target_modules": QKV, "init_weights": False} | more)


def lora(**more: Any) -> LoraConfig:
    return LoraConfig(**{"r": 2, "target_modules": QKV, "init_lora_weights": False} | more)


def features(towers: Any, case: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        ((rows, one_pass),) = towers.passes(case.tokens)
        return towers.images(case.pixels), towers.texts(one_pass)[rows.argsort()]


def wanted(model: Any, case: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return (
            image_features(model, case.pixels, engine="plain"),
            text_features(model, case.tokens, engine="plain"),
        )


def assert_right(model: Any, case: Any) -> None:
    """An engine built now gives the features of the model's own forward."""
    torch.testing.assert_close(features(LeanTowers(model), case), wanted(model, case), rtol=0, atol=1e-12)


# -- the weights stay the model's


def storages(model: nn.Module) -> dict[str, tuple[int, int, tuple[int, ...]]]:
    """Where every tensor of a model lies: its place, the bytes of its storage, its strides."""
    return {
        name: (value.data_ptr(), value.untyped_storage().nbytes(), value.stride())
        for name, value in model.state_dict(keep_vars=True).items()
    }


def one_step(towers: Any, case: Any) -> None:
    """A forward and a backward of both towers."""
    ((_, one_pass),) = towers.passes(case.tokens)
    (towers.images(case.pixels).sum() + towers.texts(one_pass).sum()).backward()


@pytest.mark.parametrize(
    ("run", "adapters"),
    [(features, []), (features, [block_lora()]), (one_step, [block_lora()])],
    ids=["bare", "no gradient", "gradient"],
)
def test_the_engine_leaves_the_models_parameters_as_they_are(
    random_clip: Any, run: Callable[..., Any], adapters: list[Any], tmp_path: Path
) -> None:
    case = random_clip(*adapters)
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    places = storages(case.model)
    run(LeanTowers(case.model), case)
    assert storages(case.model) == places
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
    save_model(case.model, str(tmp_path / "model.safetensors"))
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in saved.items())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_saving_loading_and_copying(random_clip: Any, tmp_path: Path) -> None:
    case = random_clip(block_lora())
    features(LeanTowers(case.model), case)
    case.peft.save_pretrained(tmp_path / "adapter")
    whole = copy.deepcopy(case.model)
    assert_right(whole, case)
    bare = case.peft.unload()
    plain = wanted(bare, case)
    features(LeanTowers(bare), case)
    bare.save_pretrained(tmp_path / "model")
    again = CLIPModel.from_pretrained(tmp_path / "model", dtype=torch.float64).eval()
    torch.testing.assert_close(wanted(again, case), plain, rtol=0, atol=1e-14)
    again.requires_grad_(False)
    again.load_state_dict(bare.state_dict())
    adapted = PeftModel.from_pretrained(again, tmp_path / "adapter").double().eval().get_base_model()
    torch.testing.assert_close(wanted(adapted, case), wanted(whole, case), rtol=0, atol=1e-13)
    assert_right(adapted, case)


@pytest.mark.parametrize("config", [block_lora, lora])
def test_merging_and_taking_out_again(random_clip: Any, config: Callable[..., Any]) -> None:
    for safe in (False, True):
        case = random_clip(config())
        towers = LeanTowers(case.model)
        first = features(towers, case)
        case.peft.merge_adapter(safe_merge=safe)
        assert_right(case.model, case)
        torch.testing.assert_close(features(LeanTowers(case.model), case), first, rtol=0, atol=1e-11)
        case.peft.unmerge_adapter()
        assert_right(case.model, case)
        torch.testing.assert_close(features(LeanTowers(case.model), case), first, rtol=0, atol=1e-11)
        merged = case.peft.merge_and_unload(safe_merge=safe)
        assert_right(merged, case)
        torch.testing.assert_close(features(LeanTowers(merged), case), first, rtol=0, atol=1e-11)


def test_switched_off_adapters(random_clip: Any) -> None:
    case = random_clip(lora(), lora(target_modules=["fc1"]))
    towers = LeanTowers(case.model)
    both = features(towers, case)
    with case.peft.disable_adapter():
        bare = features(towers, case)
        assert_right(case.model, case)
    assert not torch.allclose(both[1], bare[1])
    case.peft.set_adapter("adapter1")
    one = features(towers, case)
    assert_right(case.model, case)
    assert not torch.allclose(one[1], both[1])
    assert not torch.allclose(one[1], bare[1])
    case.peft.base_model.set_adapter(["default", "adapter1"])
    torch.testing.assert_close(features(towers, case), both, rtol=0, atol=0)


def test_the_image_towers_hash_stays(random_clip: Any) -> None:
    case = random_clip(dtype=torch.float32)
    before = load.image_tower_hash(case.model)
    with torch.no_grad():
        LeanTowers(case.model).images(case.pixels)
    assert load.image_tower_hash(case.model) == before


# -- which engine


def hooked(case: Any) -> None:
    case.model.vision_model.encoder.layers[0].register_forward_hook(lambda *_: None)


def normed(case: Any) -> None:
    case.model.text_model.final_layer_norm.requires_grad_(True)


def strange(case: Any) -> None:
    case.model.text_model.encoder.layers[0].mlp.fc1 = nn.Sequential(nn.Linear(32, 64).double())


def unfrozen(case: Any) -> None:
    case.model.visual_projection.requires_grad_(True)


def frozen(case: Any) -> None:
    case.model.requires_grad_(False)


REASONS: dict[str, tuple[Any, Callable[[Any], None] | None, dict[str, Any], str]] = {
    "dora": (lora(use_dora=True), None, {}, r"a variant of LoRA \(DoRA and the like\)"),
    "bias": (lora(lora_bias=True), None, {}, r"a variant of LoRA"),
    "vera": (VeraConfig(r=2, target_modules=["q_proj"]), None, {}, r"adapters of the kind peft\.tuners\.vera"),
    "ia3": (
        IA3Config(target_modules=["fc1"], feedforward_modules=["fc1"]), None, {}, r"of the kind peft\.tuners\.ia3"
    ),
    "embedding": (lora(target_modules=["token_embedding"]), None, {}, "trains more than low-rank adapters"),
    "projection": (lora(target_modules=["visual_projection"]), None, {}, "trains more than low-rank adapters"),
    "other parts": (lora(modules_to_save=["post_layernorm"]), None, {}, "trains more than low-rank adapters"),
    "biases": (lora(bias="lora_only"), None, {}, "trains more than low-rank adapters"),
    "layer norm": (lora(), normed, {}, "it trains more than low-rank adapters in its blocks"),
    "head": (lora(), unfrozen, {}, "it trains more than low-rank adapters in its blocks"),
    "hooks": (lora(), hooked, {}, "something is hooked into its forward"),
    "layers": (lora(), strange, {}, "a Sequential in place of a linear layer"),
    "activation": (lora(), None, {"act": "relu"}, "its activation is relu"),
    "attention": (lora(), None, {"attention_dropout": 0.1}, "it drops attention weights"),
    "frozen elsewhere": (lora(target_modules=["visual_projection"]), frozen, {}, "adapters outside of the linear"),
    "frozen other parts": (lora(modules_to_save=["text_projection"]), frozen, {}, "adapters outside of the linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REASONS))
def test_what_the_lean_engine_cannot_run(random_clip: Any, name: str) -> None:
    config, change, options, reason = REASONS[name]
    case = random_clip(config, **options)
    if change:
        change(case)
    found = why_not_lean(case.model)
    assert found
    assert re.search(reason, found), found
    with pytest.raises(ConfigError) as caught:
        make_towers(case.model, engine="lean")
    assert str(caught.value) == f"engine 'lean' cannot run this model: {found}; use --engine auto or plain."
    towers = make_towers(case.model)
    assert (towers.engine, towers.why) == ("plain", found)
    torch.testing.assert_close(features(towers, case), wanted(case.model, case), rtol=0, atol=0)


def test_other_models() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = sizes | {"image_size": 8, "patch_size": 4}
    siglip = SiglipModel(SiglipConfig(text_config=sizes | {"vocab_size": 50}, vision_config=vision))
    assert why_not_lean(siglip) == "it is a model of the type siglip"
    assert why_not_lean(nn.Linear(2, 2)) == "it is a model of the type Linear"


def test_what_it_can_run(random_clip: Any) -> None:
    for config in (block_lora(), lora(use_rslora=True, lora_dropout=0.5), None):
        case = random_clip(*([config] if config else []))
        assert why_not_lean(case.model) is None
        towers = make_towers(case.model)
        assert (towers.engine, towers.why, towers.model) == ("lean", "", case.model)
        assert make_towers(case.model, engine="lean").engine == "lean"
    vision = CLIPVisionModelWithProjection(case.model.config.vision_config).requires_grad_(False)
    assert why_not_lean(vision) is None


def test_trains(random_clip: Any) -> None:
    case = random_clip(lora(target_modules=r".*text_model.*q_proj"))
    assert trains(case.model.text_model)
    assert not trains(case.model.vision_model)


# -- the ordinary engine


def test_the_ordinary_engine(random_clip: Any) -> None:
    case = random_clip(block_lora())
    towers = make_towers(case.model, engine="plain")
    assert (towers.engine, towers.why) == ("plain", "")
    torch.testing.assert_close(features(towers, case), wanted(case.model, case), rtol=0, atol=0)
    parts = [(rows, towers.texts(one, keep="inputs")) for rows, one in towers.passes(case.tokens, 4)]
    assert [rows.tolist() for rows, _ in parts] == [[0, 1, 2, 3], [4, 5]]
    whole = torch.cat([part for _, part in parts]).detach()
    torch.testing.assert_close(whole, wanted(case.model, case)[1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("config", [block_lora, lora])
@pytest.mark.parametrize("kind", [LeanTowers, PlainTowers])
def test_the_seed_decides_the_masks(random_clip: Any, config: Callable[..., Any], kind: Any) -> None:
    case = random_clip(config(lora_dropout=0.5))
    case.model.train()
    towers = kind(case.model)
    ((_, one_pass),) = towers.passes(case.tokens)
    with torch.no_grad():
        for run in (
            lambda seed: towers.images(case.pixels, seed=seed),
            lambda seed: towers.texts(one_pass, seed=seed),
        ):
            assert torch.equal(run(3), run(3))
            assert not torch.allclose(run(3), run(4))
    case.model.eval()
    torch.testing.assert_close(features(towers, case), wanted(case.model, case), rtol=0, atol=1e-12)


def test_prefix_sharing_gives_all_classes_the_same_masks_in_the_opening(random_clip: Any) -> None:
    case = random_clip(block_lora(lora_dropout=0.5))
    case.model.train()
    case.tokens = case.tokens[[0, 0]]  # the same class twice: only masks can tell the two apart
    apart = []
    with torch.no_grad():
        for share in (True, False):
            towers = LeanTowers(case.model, prefix_sharing=share)
            ((_, one_pass),) = towers.passes(case.tokens)
            one, other = towers.texts(one_pass, seed=1)
            apart.append(float((one - other).norm()))
    assert 0 < apart[0] < apart[1]  # with sharing all but the end-of-text token is the same


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_either_engine(random_clip: Any, dtype: torch.dtype) -> None:
    case = random_clip(block_lora(), dtype=torch.float32)
    exact = wanted(case.model, case)
    tolerance = 4e-2 if dtype is torch.bfloat16 else 5e-3
    for engine in ("lean", "plain"):
        towers = make_towers(case.model, engine=engine, dtype=dtype)
        ((rows, one_pass),) = towers.passes(case.tokens)
        image, text = towers.images(case.pixels), towers.texts(one_pass)[rows.argsort()]
        for found, value in zip((image, text), exact, strict=True):
            assert found.dtype == torch.float32
            assert float((found - value).detach().norm(dim=1).max()) < tolerance
            assert not torch.equal(found, value)
        F.cross_entropy(case.model.logit_scale.exp() * image @ text.T, case.labels).backward()
        gradients = case.gradients()
        assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
        if engine == "lean":
            first = gradients
    _, reference = case.reference()
    for found in (first, gradients):
        total = sum(float((found[name] - reference[name]).square().sum()) for name in reference)
        size = sum(float(reference[name].square().sum()) for name in reference)
        assert (total / size) ** 0.5 < 3 * tolerance


def test_autocast_around_the_lean_engine_changes_nothing(random_clip: Any) -> None:
    case = random_clip(block_lora(), dtype=torch.float32)
    towers = LeanTowers(case.model)
    alone = features(towers, case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(features(towers, case), alone, rtol=0, atol=0)
