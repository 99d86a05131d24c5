"""What a method changed in the towers goes to tensors and back."""

from __future__ import annotations

import pytest
import torch

from blocklora.classifier import ImageChange, TextChange, is_of_image_tower


def test_an_image_change_comes_back() -> None:
    change = ImageChange({"vision_model.a": torch.ones(2)}, torch.zeros(1, 2, 3))
    again = ImageChange.from_tensors(change.tensors())
    assert again.weights.keys() == change.weights.keys()
    assert torch.equal(again.weights["vision_model.a"], torch.ones(2))
    assert again.prompts is not None
    assert again.prompts.shape == (1, 2, 3)
    assert again.to(torch.device("cpu")).tensors().keys() == change.tensors().keys()


def test_nothing_is_no_change() -> None:
    assert not ImageChange()
    assert not ImageChange.from_tensors({})
    assert ImageChange({"a": torch.ones(1)})
    assert ImageChange(prompts=torch.ones(1, 1, 1))


def test_a_text_change_comes_back_with_its_words() -> None:
    change = TextChange(
        {"text_model.a": torch.ones(2)}, torch.zeros(4, 3), torch.zeros(1, 4, 3), "a photo of a"
    )
    again = TextChange.from_tensors(change.tensors(), "a photo of a")
    assert again.words == "a photo of a"
    assert again.weights.keys() == {"text_model.a"}
    assert again.context is not None
    assert again.deep is not None
    assert (again.context.shape, again.deep.shape) == ((4, 3), (1, 4, 3))
    assert TextChange().tensors() == {}


@pytest.mark.parametrize("kind", [ImageChange, TextChange])
def test_tensors_that_nothing_would_use_are_refused(kind: type) -> None:
    more = ("",) if kind is TextChange else ()
    with pytest.raises(ValueError, match="the tensor 'magic' is not one of"):
        kind.from_tensors({"magic": torch.ones(1)}, *more)


def test_whose_a_parameter_is() -> None:
    assert is_of_image_tower("vision_model.post_layernorm.weight")
    assert is_of_image_tower("visual_projection.weight")
    assert not is_of_image_tower("text_model.final_layer_norm.weight")
