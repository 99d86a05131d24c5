"""What an adapter costs, counted and not timed, and beside it the accuracy that ``adapter_accuracy.py`` measured.

    python benchmarks/adapter_costs.py [--out RESULT.json]

The unit is the q, k and v projections of one attention block, which read one input. Trained numbers and optimizer
bytes are for all blocks of both towers of CLIP ViT-B/16; saved bytes (what autograd keeps for backward, distinct
storages, parameters left out) and FLOPs (matrix products, forward and backward) are per token of width 768.
"""

from __future__ import annotations

import argparse
import json
import weakref
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from blocklora.adapter import BlockLoraConfig, param_groups
from few_shot import RESULTS
from measuring import circumstances, write

TOKENS = 512
BLOCKS = {768: 12, 512: 12}  # width -> attention blocks, ViT-B/16: vision, text
DROPOUT = 0.25
SHOTS = ("1", "4", "16")


class QKV(nn.Module):
    """Three projections of one input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the three projections of x, shape (..., width)."""
        return self.q(x) + self.k(x) + self.v(x)


def methods() -> dict[str, Any]:
    """Configurations to compare; LoRA and its kin with r = 4, Block-LoRA with r = 4 in 4 arms, VeRA with its own r."""
    names = {"target_modules": ["q", "k", "v"]}
    lora = {"r": 4, "lora_alpha": 1, "lora_dropout": DROPOUT, **names}
    block = {"n_blocks": 4, **lora}
    return {
        "LoRA (r=4)": peft.LoraConfig(**lora),
        "LoRA (r=1)": peft.LoraConfig(**{**lora, "r": 1}),
        "DoRA (r=4)": peft.LoraConfig(use_dora=True, **lora),
        "VeRA (r=256)": peft.VeraConfig(r=256, vera_dropout=DROPOUT, **names),
        "Block-LoRA (r=4, n=4), blocks": BlockLoraConfig(**block),
        "Block-LoRA (r=4, n=4), folded": BlockLoraConfig(parametrization="folded", **block),
        "Block-LoRA (r=4, n=4), arm_dropout": BlockLoraConfig(arm_dropout=True, **block),
    }


class Box:
    """One tensor that autograd keeps."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def adapt(config: Any, width: int) -> nn.Module:
    """The unit with an adapter, training."""
    torch.manual_seed(0)
    return peft.get_peft_model(QKV(width), config).train()


def optimizer_bytes(model: nn.Module, width: int) -> int:
    """Bytes of AdamW's moments after one step."""
    optimizer = torch.optim.AdamW(param_groups(model, 1e-3))
    model(torch.randn(4, width)).sum().backward()
    optimizer.step()
    tensors = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    return sum(t.nbytes for t in tensors)


def saved_bytes(model: nn.Module, width: int) -> int:
    """Bytes of the distinct storages that autograd keeps after forward, parameters and buffers left out."""
    owned = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    boxes: weakref.WeakSet[Box] = weakref.WeakSet()  # a box dies with its part of the graph

    def pack(tensor: Tensor) -> Box:
        box = Box(tensor)
        boxes.add(box)
        return box

    x = torch.randn(TOKENS, width, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        out = model(x)
    kept = {storage.data_ptr(): storage.nbytes() for storage in (b.tensor.untyped_storage() for b in boxes)}
    del out
    return sum(size for address, size in kept.items() if address not in owned)


def flops(model: nn.Module, width: int) -> int:
    """FLOPs of the matrix products of one forward and backward pass, the input's gradient included."""
    x = torch.randn(TOKENS, width, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops()


def measure() -> list[dict[str, Any]]:
    """One row for each method, and one for the bare frozen layers."""
    bare = QKV(768).requires_grad_(False)
    base = flops(bare, 768)
    rows = []
    for name, config in methods().items():
        units = {width: adapt(config, width) for width in BLOCKS}
        trained = {
            w: sum(p.numel() for p in unit.parameters() if p.requires_grad) for w, unit in units.items()
        }
        memory = {w: optimizer_bytes(unit, w) for w, unit in units.items()}
        rows.append(
            {
                "method": name,
                "trained_numbers": sum(trained[w] * count for w, count in BLOCKS.items()),
                "optimizer_bytes": sum(memory[w] * count for w, count in BLOCKS.items()),
                "saved_bytes_per_token": saved_bytes(units[768], 768) / TOKENS,
                "flops_per_token": flops(units[768], 768) / TOKENS,
                "flops_over_frozen": flops(units[768], 768) / base,
            }
        )
    return rows


def accuracies() -> dict[str, list[str]]:
    """Test accuracy in percent of each method at each number of shots, as ``adapter_accuracy.py`` left it."""
    path = RESULTS / "adapter_accuracy.json"
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    found = {
        row["method"]: [
            f"{100 * row[shots]['mean']:.1f} ± {100 * row[shots]['half_interval']:.1f}" for shots in SHOTS
        ]
        for row in rows
    }
    # The twin computes what the blocks do, up to rounding (checked by generalization_gap.py).
    return found | {"Block-LoRA (r=4, n=4), folded": found["Block-LoRA (r=4, n=4), blocks"]}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    head = [
        "method",
        "trained numbers",
        "optimizer bytes",
        "saved bytes per token",
        "MFLOP of a step per token",
    ]
    measured = accuracies()
    if measured:
        head += [f"{shots} shot{'s' * (shots != '1')}" for shots in SHOTS]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        cells = [
            row["method"],
            f"{row['trained_numbers']:,}",
            f"{row['optimizer_bytes']:,}",
            f"{row['saved_bytes_per_token']:,.0f}",
            f"{row['flops_per_token'] / 1e6:.2f} ({row['flops_over_frozen']:.3f})",
            *(measured.get(row["method"], ["-"] * len(SHOTS)) if measured else ()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and write the numbers with what they were made on."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = RESULTS / "adapter_costs.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    out = parser.parse_args().out
    rows = measure()
    write(out, {**circumstances(), "tokens": TOKENS, "dropout": DROPOUT, "rows": rows})
    print(markdown(rows))


if __name__ == "__main__":
    main()
