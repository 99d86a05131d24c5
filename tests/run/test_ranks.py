"""Runs that several processes share: the same run, kept and gone on with whatever happens to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rank_work
import torch
from runs import names, read, settings
from safetensors.torch import load_file

from blocklora.report import read_predictions
from blocklora.run.fit import fit_run

OPTIONS: dict[str, Any] = {"iterations": 6, "batch_size": 5, "dropout": 0.25, "seed": 3}


def together(count: int, out: Path, model: Path, data: Path, **more: Any) -> list[str]:
    """Fit in so many processes, and return what each said in the end."""
    options = {} if "method" in more else OPTIONS
    given = {"data": str(data), **settings(model, **options, **more)}
    rank_work.processes("fit", count, str(out), json.dumps(given))
    said = [out.with_suffix(f".{rank}.txt") for rank in range(count)]
    texts = [path.read_text(encoding="utf-8") if path.exists() else "" for path in said]
    for path in said:
        path.unlink(missing_ok=True)
    return texts


@pytest.fixture(scope="module")
def alone(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out, _ = fit_run(
        str(photos), tmp_path_factory.mktemp("ranks") / "alone", **settings(clip_folder, **OPTIONS)
    )
    return out


def assert_close(one: Any, other: Any, name: str) -> None:
    """Two values of metrics.json are the same, numbers but for rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            assert_close(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), name
        for first, second in zip(one, other, strict=True):
            assert_close(first, second, name)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5), name
    else:
        assert one == other, name


def assert_same_run(out: Path, alone: Path) -> None:
    """Two runs are the same but for rounding, and for what they cost."""
    assert names(out) == names(alone)
    assert read(out / "config.json") == read(alone / "config.json")
    assert read(out / "split.json") == read(alone / "split.json")
    for file in ("class_features.safetensors", "adapter/adapter_model.safetensors"):
        own, theirs = load_file(out / file), load_file(alone / file)
        assert own.keys() == theirs.keys()
        for name, expected in theirs.items():
            torch.testing.assert_close(own[name], expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    own, theirs = read(out / "metrics.json"), read(alone / "metrics.json")
    assert own.keys() == theirs.keys()
    for name in own.keys() - {"train_seconds", "peak_memory_bytes", "created", "engine", "selection"}:
        assert_close(own[name], theirs[name], name)
    rows = zip(
        read_predictions(out / "predictions.csv"), read_predictions(alone / "predictions.csv"), strict=True
    )
    for one, other in rows:
        assert (one.image, one.predicted, one.zero_shot) == (other.image, other.predicted, other.zero_shot)
        assert one.label_probability == pytest.approx(other.label_probability, abs=1e-4)


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_do_the_run_of_one(
    count: int, clip_folder: Path, photos: Path, alone: Path, tmp_path: Path
) -> None:
    assert together(count, tmp_path / "run", clip_folder, photos) == [""] * count
    assert_same_run(tmp_path / "run", alone)
    assert read(tmp_path / "run" / "metrics.json")["engine"]["processes"] == count


def test_a_killed_process_ends_the_others_and_the_run_goes_on_with_as_many_as_one_likes(
    clip_folder: Path, photos: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first, killed, other = together(3, out, clip_folder, photos, dies=1)
    assert (first[:13], killed, other[:13]) == ("LostRankError", "", "LostRankError")
    assert "go on with the same command and --resume" in first
    assert "checkpoint.safetensors" in names(out)
    assert together(2, out, clip_folder, photos, resume=True) == ["", ""]
    assert_same_run(out, alone)


def test_ctrl_c_in_one_process_stops_all_after_the_same_step(
    clip_folder: Path, photos: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert together(2, out, clip_folder, photos, stops=1) == [
        "KeyboardInterrupt: stopped after step 4 of 6",
        "KeyboardInterrupt: stopped after step 4 of 6",
    ]
    fit_run(str(photos), out, resume=True, **settings(clip_folder, **OPTIONS))
    assert_same_run(out, alone)


def test_what_cannot_be_shared_is_refused_before_anything_is_written(
    clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = together(2, out, clip_folder, photos, method="zero-shot")
    assert "method 'zero-shot': trains in one process, and 2 were started" in said[0]
    assert not out.exists()
    said = together(2, out, clip_folder, photos, engine="plain")
    assert "only the lean engine shares a step" in said[0]
    assert not out.exists() or names(out) == []
