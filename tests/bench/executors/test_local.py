"""Processes of this machine: how many there are, and what each is given."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from blocklora.bench.executors import local
from blocklora.bench.executors.local import local_processes
from blocklora.bench.grid import load_grid
from blocklora.core.resources import Resources


def test_each_worker_has_its_share_of_cores_and_memory(
    tmp_path: Path, clip_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grid.toml").write_text(
        f'models = ["{clip_folder.as_posix()}"]\nshots = [2]\nseeds = [1, 2, 3]\n'
        f'[data.shapes]\npath = "{photos.as_posix()}"\n[methods.block-lora]\n[settings]\ndevice = "cpu"\n',
        encoding="utf-8",
    )
    grid = load_grid(tmp_path / "grid.toml")
    gib = 1024**3
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 16)
    for allowed, workers, expected in [
        (Resources(8, 100 * gib), None, (3, Resources(2, 100 * gib // 3))),  # three runs, eight cores allowed
        (Resources(8, 100 * gib), 2, (2, Resources(4, 50 * gib))),
        (Resources(32, 100 * gib), 1, (1, Resources(16, 100 * gib))),  # physical cores
        (Resources(1, 100 * gib), 3, (3, Resources(1, 100 * gib // 3))),
        (Resources(8, 4 * gib), None, (1, Resources(8, 4 * gib))),  # memory for one
    ]:
        monkeypatch.setattr(local, "available_resources", lambda found=allowed: found)
        crew = local_processes(grid, grid.runs, workers, 0, tmp_path / "features", tmp_path / "log")
        assert (crew.n_workers, crew.settings.resources) == expected
        assert (crew.machine.workers, crew.machine.threads) == (expected[0], expected[1].cores)


def test_gpus_are_named_as_the_system_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpus(*names: str) -> tuple[str, ...]:
        return local._ids(local._gpus({torch.device(name) for name in names}))

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus("cpu") == ()
    assert gpus("cuda") == ("0", "1", "2")
    assert gpus("cuda:2", "cuda:0") == ("0", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    assert gpus("cuda") == ("4", "5", "7")
    assert gpus("cuda:2") == ("7",)
