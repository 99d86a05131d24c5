"""A classifier as an adapter that stock PEFT loads, with the head beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from blocklora.adapter import BlockLoraConfig, fold_to_lora
from blocklora.classifier import Classifier
from blocklora.classifier.files import ADAPTER
from blocklora.clip import TINY, load_clip
from blocklora.clip.quiet import quiet
from blocklora.core.errors import ConfigError
from blocklora.core.files import write_json
from blocklora.export.arrays import write_head
from blocklora.export.tower import check_head

__all__ = ["write_adapter"]

_BASE, _CONFIG = "base", "adapter_config.json"


def write_adapter(folder: Path, classifier: Classifier, run: Path) -> None:
    """Write the adapter and the head; of the bundled model, which is on no hub, a copy too.

    Args:
        folder: An empty folder.
        classifier: What the run learned.
        run: The RUN folder, or what ``FewShotClassifier.save`` wrote.

    Raises:
        ConfigError: The method trains no adapter.
    """
    check_head(classifier, mixtures=False)
    source = run / ADAPTER
    if not source.is_dir():
        raise ConfigError(
            f"method '{classifier.method}' trains no adapter, so there is nothing for --format lora to write; use "
            "--format hf, onnx or numpy."
        )
    if classifier.adapter is None or isinstance(classifier.adapter.peft_config["default"], BlockLoraConfig):
        fold_to_lora(source, folder)
    else:
        for file in source.iterdir():
            shutil.copyfile(file, folder / file.name)
    write_head(folder, classifier)
    if classifier.base.model_id == TINY:
        clip = load_clip(TINY)
        with quiet():
            for part in (clip.model, clip.tokenizer, clip.processor):
                part.save_pretrained(folder / _BASE)
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        write_json(folder / _CONFIG, config | {"base_model_name_or_path": _BASE, "revision": None})
