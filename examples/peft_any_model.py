"""Block-LoRA on any transformers model: train, save, reload, and hand over as plain LoRA.

A tiny BERT with random weights stands in for yours, so that this runs in seconds and offline:

    python examples/peft_any_model.py
"""

import tempfile
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

from blocklora import BlockLoraConfig, fold_to_lora, param_groups

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def make_base() -> BertForSequenceClassification:
    """Your model: here, always the same random weights."""
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(vocab_size=100, num_labels=2, **SIZES)).eval()


config = BlockLoraConfig(
    r=8,
    n_blocks=4,
    lora_alpha=16,
    lora_dropout=0.1,
    target_modules=["query", "value"],
    modules_to_save=["classifier"],
    parametrization="folded",  # the same function as "blocks", with fewer parameters
)
model = get_peft_model(make_base(), config)
model.print_trainable_parameters()

tokens = torch.randint(0, 100, (64, 8), generator=torch.Generator().manual_seed(1))
labels = (tokens[:, 0] < 50).long()  # is the first word from the first half of the dictionary?
optimizer = torch.optim.AdamW(param_groups(model, lr=5e-3, weight_decay=0.01))
model.train()
for _ in range(60):
    loss = model(input_ids=tokens, labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval().requires_grad_(False)
logits = model(input_ids=tokens).logits
print(f"accuracy on the training data: {(logits.argmax(1) == labels).float().mean():.2f}")

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(Path(folder) / "block-lora")
    fold_to_lora(model, Path(folder) / "lora")  # stock PEFT, without blocklora, loads this one
    for name in ("block-lora", "lora"):
        again = PeftModel.from_pretrained(make_base(), Path(folder) / name)(input_ids=tokens).logits
        print(f"{name} reloaded: largest difference {(again - logits).abs().max():.1e}")
