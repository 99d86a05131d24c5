"""Optimisers and the learning-rate schedule, both counted in steps."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

ADAM_RATE, MUON_RATE = 1.2e-3, 2.5e-3


def orthogonalise(matrices: Tensor, n_rounds: int = 5) -> Tensor:
    """Return each matrix with its singular values moved near 1, by Newton-Schulz rounds of degree five, [n, r, c]."""
    a, b, c = 3.4445, -4.7750, 2.0315  # Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(n_rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(Optimizer):
    """Nesterov momentum, orthogonalised per matrix (Jordan et al. 2024), in float32.

    Like ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``, whose bfloat16 rounds are twenty times slower on a CPU
    without bfloat16 units; matrices of one shape are handled in one batch.
    """

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(matrix.shape, []).append(matrix)
            for (rows, columns), matrices in shapes.items():
                moved = torch.stack([self._momentum(m, group["momentum"]) for m in matrices])  # [n, r, c]
                rate = group["lr"] * 0.2 * max(rows, columns) ** 0.5  # root mean square as AdamW's
                for matrix, direction in zip(matrices, orthogonalise(moved), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(rate * direction)

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        """Return the Nesterov direction of one matrix and keep its running mean."""
        state = self.state[matrix]
        if not state:
            state["mean"] = torch.zeros_like(matrix)
        mean: Tensor = state["mean"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(mean, momentum)


def build_optimisers(
    modules: Iterable[nn.Module], blocks: nn.Module, adam_rate: float, muon_rate: float
) -> list[Optimizer]:
    """Return Muon for the matrices inside ``blocks`` and AdamW for every other parameter of ``modules``."""
    matrices = [p for p in blocks.parameters() if p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [p for module in modules for p in module.parameters() if id(p) not in taken and p.requires_grad]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    muon = Muon(matrices, lr=muon_rate, weight_decay=0.05)
    optimisers: list[Optimizer] = [AdamW(groups, lr=adam_rate, betas=(0.9, 0.98)), muon]
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return optimisers


def set_rate(optimisers: Iterable[Optimizer], step: int, n_steps: int, warm_up: int) -> None:
    """Warm up linearly, then follow a half cosine down to 2% of the initial rate."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / n_steps))
    factor = min(1.0, (step + 1) / warm_up) * (0.98 * cosine + 0.02)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor


def update(optimisers: Iterable[Optimizer], loss: Tensor, parameters: list[nn.Parameter]) -> None:
    """Take one step down the loss, with gradients clipped to norm 1."""
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad()
