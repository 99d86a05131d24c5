from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from small_task import classes_of, fit

from blocklora import FewShotClassifier
from blocklora.classifier import encode
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError
from blocklora.methods import Job, find_method, make_settings, settings_json

KINDS: dict[str, dict[str, Any]] = {
    "dora": {"peft_type": "LORA", "use_dora": True, "r": 2},
    "ia3": {"peft_type": "IA3", "feedforward_modules": []},
    "loha": {"peft_type": "LOHA", "r": 2},
    "lokr": {"peft_type": "LOKR", "r": 2},
    "oft": {"peft_type": "OFT", "oft_block_size": 8, "r": 0},
    "vera": {"peft_type": "VERA", "r": 4},
    "block": {"peft_type": "BLOCKLORA", "r": 4, "n_blocks": 2},
    "layers": {"peft_type": "LORA", "target_modules": ["fc1"]},
}


def written(folder: Path, record: Any) -> str:
    path = folder / "adapter.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return str(path)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("kind", KINDS)
def test_any_adapter_is_trained_saved_and_loaded(
    clip_folder: Path, photos: Path, tmp_path: Path, kind: str
) -> None:
    paths = sorted(photos.glob("*/*.png"))
    labels = [path.parent.name for path in paths]
    classifier = FewShotClassifier(
        model=str(clip_folder),
        method="peft",
        shots=2,
        device="cpu",
        iterations=3,
        lr=0.05,
        peft_config=written(tmp_path, KINDS[kind]),
    ).fit(paths, labels)
    adapter = classifier.classifier_.adapter
    adapted = {name for name, module in adapter.named_modules() if isinstance(module, BaseTunerLayer)}
    assert {"vision_model", "text_model"} <= {part for name in adapted for part in name.split(".")}
    classifier.save(tmp_path / "kept")
    loaded = FewShotClassifier.load(tmp_path / "kept", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(paths), classifier.predict_proba(paths))
    fitted = classifier.classifier_
    both = encode(fitted, [("x", paths[0])], Compute(fitted.device, "fp32"), zero_shot=True).features
    assert not torch.allclose(both[:, 0], both[:, 1], atol=1e-4)


def test_a_lora_file_is_clip_lora(job: Job, tmp_path: Path) -> None:
    record = {"peft_type": "LORA", "r": 2, "lora_alpha": 1, "lora_dropout": 0.25, "use_rslora": True}
    one = fit(job, "clip-lora", iterations=3, lr=1e-2)
    other = fit(job, "peft", iterations=3, lr=1e-2, peft_config=written(tmp_path, record))
    assert torch.equal(classes_of(one), classes_of(other))
    assert "the adapter LORA of its file" in other.choices["settings"].reason


def test_a_run_keeps_what_stood_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, {"peft_type": "LORA", "r": 3})
    made = make_settings("peft", find_method("peft").settings, {"peft_config": path})
    Path(path).unlink()
    assert json.loads(made.peft_config) == {"peft_type": "LORA", "r": 3}
    assert make_settings("peft", find_method("peft").settings, settings_json(made)) == made


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"r": 2}, "its peft_type is 'None'; expected one that PEFT knows"),
        (["LORA"], "its peft_type is 'None'"),
        ({"peft_type": "MAGIC"}, "its peft_type is 'MAGIC'; expected one that PEFT knows"),
        (
            {"peft_type": "LORA", "rank": 3},
            "PEFT refuses this configuration: Unexpected keyword arguments ['rank']",
        ),
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3}, "expected an adapter of layers"),
        ({"peft_type": "LORA", "modules_to_save": ["visual_projection"]}, "expected an adapter of layers"),
    ],
)
def test_wrong_files_name_themselves(tmp_path: Path, record: Any, message: str) -> None:
    path = written(tmp_path, record)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {message}")):
        make_settings("peft", find_method("peft").settings, {"peft_config": path})


def test_wrong_settings_name_themselves(tmp_path: Path) -> None:
    path = written(tmp_path, {"peft_type": "LORA"})
    with pytest.raises(ConfigError, match=r"method peft needs --peft-config: a JSON file"):
        FewShotClassifier(method="peft", device="cpu")
    with pytest.raises(ConfigError, match=r"nowhere\.json: this PEFT configuration cannot be read"):
        FewShotClassifier(method="peft", device="cpu", peft_config=str(tmp_path / "nowhere.json"))
    with pytest.raises(ConfigError, match=r"r '8': of method peft this stands in --peft-config"):
        FewShotClassifier(method="peft", device="cpu", peft_config=path, r=8)
    with pytest.raises(ConfigError, match=r"--peft-config: this PEFT configuration is no JSON"):
        FewShotClassifier(method="peft", device="cpu", peft_config="{peft_type")
