"""Counts against known numbers and real adapters; the bound in its limits."""

from __future__ import annotations

import math
import runpy
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.adapter import bound, generalization_bound, trained_numbers
from blocklora.adapter.theory import CLIP_WIDTHS, qkv_shapes
from blocklora.core.errors import ConfigError

shapes = st.lists(st.tuples(st.integers(1, 999), st.integers(1, 999)), min_size=1, max_size=5)


@pytest.mark.parametrize("backbone", ["ViT-B/16", "ViT-B/32"])
def test_known_counts(backbone: str) -> None:
    layers = qkv_shapes(backbone)
    assert trained_numbers("lora", layers, 2) == 184_320
    assert trained_numbers("block-lora", layers, 2, 2) == 138_240
    assert trained_numbers("block-lora", layers, 4, 4) == 230_400
    assert trained_numbers("block-lora", layers, 8, 8) == 414_720
    assert trained_numbers("folded", layers, 8, 8) == 92_160


def test_large_model() -> None:
    assert trained_numbers("lora", qkv_shapes("ViT-L/14"), 2) == 2 * 2 * 3 * (24 * 1024 + 12 * 768)


@pytest.mark.parametrize("kind", ["blocks", "folded"])
def test_counts_are_those_of_a_real_adapter(make_case, kind: str) -> None:
    case = make_case("clip")
    model = case.adapted(r=6, n_blocks=3, parametrization=kind)
    layers = [tuple(case.base().get_submodule(name).weight.shape) for name in model.targeted_module_names]
    method = "block-lora" if kind == "blocks" else kind
    assert model.get_nb_trainable_parameters()[0] == trained_numbers(method, layers, 6, 3)


@given(shapes, st.integers(1, 9), st.integers(1, 9))
def test_block_lora_lies_between_its_twin_and_lora(layers, k: int, n: int) -> None:
    lora, block, twin = (trained_numbers(m, layers, k * n, n) for m in ("lora", "block-lora", "folded"))
    assert twin <= block <= lora
    assert (twin < block < lora) == (n > 1)
    assert twin == trained_numbers("lora", layers, k)


@given(st.integers(1, 10**7), st.integers(1, 10**6), st.sampled_from([4, 16, 32]), st.floats(0.01, 10))
def test_bound_grows_with_numbers_and_falls_with_samples(
    p: int, samples: int, bits: int, sigma: float
) -> None:
    value = generalization_bound(p, samples, bits=bits, sigma=sigma)
    assert math.isclose(value**2, 2 * sigma**2 * math.log(2) * bits * p / samples)
    assert generalization_bound(p + 1, samples, bits=bits, sigma=sigma) > value
    assert generalization_bound(p, samples + 1, bits=bits, sigma=sigma) < value
    assert generalization_bound(p, samples, bits=bits + 1, sigma=sigma) > value
    assert math.isclose(generalization_bound(p, samples, bits=bits, sigma=2 * sigma), 2 * value)


def test_bound_in_its_limits() -> None:
    assert generalization_bound(0, 5) == 0
    assert generalization_bound(10**6, 10**30) < 1e-9
    assert generalization_bound(1, 1, bits=1) == pytest.approx(math.sqrt(2 * math.log(2)))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: generalization_bound(-1, 5), "trained=-1 should be at least 0"),
        (lambda: generalization_bound(1, 0), "samples=0 should be at least 1"),
        (lambda: generalization_bound(1, 1, bits=0), "bits=0 should be at least 1"),
        (lambda: generalization_bound(1, 1, sigma=0.0), "sigma=0.0 should be positive"),
        (lambda: trained_numbers("dora", [(1, 1)], 2), "method='dora' is unknown; expected one of lora"),
        (lambda: trained_numbers("lora", [(1, 1)], 3, 2), "r=3 should be a positive multiple of n_blocks=2"),
        (lambda: qkv_shapes("RN50"), "backbone='RN50' is unknown; expected one of ViT-B/16"),
    ],
)
def test_arguments_out_of_range(call, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        call()


def test_table_lists_every_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    bound.main(["--samples", "160", "--bits", "16"])
    out = capsys.readouterr().out
    assert all(name in out for name in CLIP_WIDTHS)
    row = next(line for line in out.splitlines() if line.startswith("| ViT-B/16 | 2 | 2 |"))
    assert "184,320" in row
    assert "138,240" in row
    assert f"{generalization_bound(138_240, 160, bits=16):.1f}" in row


def test_table_runs_as_a_module(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bound"])
    monkeypatch.delitem(
        sys.modules, "blocklora.adapter.bound"
    )  # as in a fresh process: the package leaves it out
    runpy.run_module("blocklora.adapter.bound", run_name="__main__")
    assert "| ViT-L/14 | 8 | 8 |" in capsys.readouterr().out
