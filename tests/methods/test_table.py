"""Methods that train for long keep their state: a run that was stopped ends like one that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from blocklora.clip import load_clip
from blocklora.core.device import Compute
from blocklora.methods import METHODS, Fitted, Task, make_settings
from blocklora.training import Checkpoint
from blocklora.training import minimise as minimise_module

Tasks = Callable[..., Task]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("layer-norm", {"iterations": 6, "lr": 1e-2}),
        ("2sfs", {"iterations": 6, "lr": 1e-2}),
        ("coop", {"epochs": 6, "lr": 0.1}),
        ("prograd", {"epochs": 6, "lr": 0.1}),
        ("cocoop", {"epochs": 6, "lr": 0.1, "batch_size": 6}),
        ("maple", {"epochs": 3, "lr": 0.1}),
        ("promptsrc", {"epochs": 3, "lr": 0.1}),
    ],
)
@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_stopped_run_goes_on_to_the_same_bits(
    clip_folder: Path,
    task_of: Tasks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    settings: dict[str, float],
    stop_at: int,
) -> None:
    monkeypatch.setattr(minimise_module, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(minimise_module, "_SHOW_SECONDS", 0.0)

    def run(checkpoint: Checkpoint | None, stop: int = 99) -> Fitted:
        def on_step(step: int, total: int, loss: float, lr: float) -> None:
            if step == stop:
                raise KeyboardInterrupt

        clip = load_clip(str(clip_folder))
        return METHODS[method](
            task_of(clip),
            clip,
            make_settings(method, METHODS[method], settings),
            1,
            Compute(CPU, "fp32"),
            checkpoint=checkpoint,
            on_step=on_step,
        )

    whole = run(None)
    checkpoint = Checkpoint(tmp_path / "state", "this run")
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, stop_at)
    resumed = run(checkpoint)
    assert torch.equal(resumed.class_features, whole.class_features)
    changes, before = resumed.tower.tensors(), whole.tower.tensors()
    assert changes.keys() == before.keys()
    assert all(torch.equal(changes[name], value) for name, value in before.items())
    if whole.head:
        assert resumed.head
        assert all(torch.equal(resumed.head.tensors[name], t) for name, t in whole.head.tensors.items())
    assert whole.training is not None
    assert resumed.training is not None
    assert torch.equal(resumed.training.losses, whole.training.losses)
