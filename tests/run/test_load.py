"""A finished run is opened where it can be used: other devices, moved base models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import read, settings

from blocklora import FewShotClassifier
from blocklora.core.errors import ModelError, RunError
from blocklora.core.files import write_json
from blocklora.run.fit import fit_run
from blocklora.run.load import load_run, load_towers
from blocklora.run.transfer import AdaptedTowers


@pytest.mark.parametrize("method", ["block-lora", "zero-shot", "cocoop"])
def test_both_ways_to_open_a_run_take_a_moved_base_model(
    method: str, clip_folder: Path, make_clip: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "clip", tmp_path / "moved"
    shutil.copytree(clip_folder, old)
    given = settings(old, method=method)
    if method == "cocoop":
        del given["iterations"]
        given |= {"epochs": 1, "batch_size": 6, "shots": 1}
    run, _ = fit_run(str(photos), tmp_path / "run", **given)
    images = sorted(photos.rglob("*.png"))[::6]
    before = FewShotClassifier.load(run, device="cpu").predict_proba(images)
    old.rename(new)
    with pytest.raises(ModelError, match="clip"):
        load_run(run, device="cpu")
    again = FewShotClassifier.load(run, device="cpu", model=str(new))
    assert (again.predict_proba(images) == before).all()
    assert load_run(run, device="cpu", model=str(new)).labels == ["blue-cross", "green disc", "red_square"]
    assert AdaptedTowers(run, device="cpu", model=str(new)).prompts(["{}"])
    other = str(make_clip(tmp_path / "other", seed=3))
    for load in (load_run, load_towers):
        with pytest.raises(RunError, match="has another image tower than the one it was fitted with"):
            load(run, device="cpu", model=other)


@pytest.mark.parametrize(
    ("fitted", "asked", "used", "notes"),
    [
        ("fp32", "auto", "fp32", ()),
        ("bf16", "auto", "bf16", ()),
        ("fp16", "auto", "fp32", ("computed in fp32; the run was fitted in fp16",)),
        ("fp32", "bf16", "bf16", ("computed in bf16; the run was fitted in fp32",)),
    ],
)
def test_the_precision(
    fitted: str, asked: str, used: str, notes: tuple[str, ...], run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    record = read(run / "classifier.json")
    write_json(tmp_path / "run" / "classifier.json", record | {"precision": fitted})
    loaded = load_run(tmp_path / "run", device="cpu", precision=asked)
    assert (loaded.compute.device, loaded.compute.precision) == (torch.device("cpu"), used)
    assert loaded.notes == notes


@pytest.mark.parametrize("engine", ["plain", "lean", "auto"])
def test_the_engine_is_the_runs_own(engine: str, clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    run, _ = fit_run(str(photos), tmp_path / "run", **settings(clip_folder, engine=engine))
    assert load_run(run, device="cpu").classifier.engine == engine
    assert load_towers(run, device="cpu")[0].classifier.engine == engine
