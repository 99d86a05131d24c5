"""Block-LoRA on any transformers model: train, save, reload, and hand over as plain LoRA.

A tiny BERT with random weights stands in for yours, so that this runs in seconds and offline:

    python examples/peft_any_model.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

from blocklora.adapter import BlockLoraConfig, fold_to_lora, param_groups


def make_base() -> BertForSequenceClassification:
    """Your model: here, always the same random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForSequenceClassification(BertConfig(vocab_size=100, num_labels=2, **sizes)).eval()


def main() -> None:
    """Train on a toy task, then check that every form of the adapter computes the same."""
    config = BlockLoraConfig(
        r=8,
        n_blocks=4,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules=["query", "value"],
        modules_to_save=["classifier"],
        parametrization="folded",  # the exact twin of "blocks": the same function, fewer numbers
    )
    model = get_peft_model(make_base(), config)
    model.print_trainable_parameters()

    tokens = torch.randint(0, 100, (64, 8), generator=torch.Generator().manual_seed(1))
    labels = (tokens[:, 0] < 50).long()  # is the first word from the first half of the dictionary?
    optimizer = torch.optim.AdamW(param_groups(model, lr=5e-3, weight_decay=0.01))
    model.train()
    for step in range(60):
        loss = model(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step:3d}  loss {loss.item():.3f}")
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=tokens).logits
    print(f"accuracy on the training data: {(logits.argmax(1) == labels).float().mean():.2f}")

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "block-lora")
        reloaded = PeftModel.from_pretrained(make_base(), Path(folder) / "block-lora")
        fold_to_lora(model, Path(folder) / "lora")  # stock PEFT, without blocklora, loads this one
        stock = PeftModel.from_pretrained(make_base(), Path(folder) / "lora")
        with torch.no_grad():
            for name, other in (("reloaded", reloaded), ("plain LoRA", stock)):
                print(
                    f"{name}: largest difference {(other(input_ids=tokens).logits - logits).abs().max():.1e}"
                )
            merged = model.merge_and_unload()
            print(f"merged: largest difference {(merged(input_ids=tokens).logits - logits).abs().max():.1e}")


if __name__ == "__main__":
    main()
