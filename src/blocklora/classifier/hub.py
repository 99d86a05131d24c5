"""A saved classifier on the Hugging Face hub: what goes up, and how it comes back.

Only what a classifier is made of goes up, with a model card: no image, no name of one, no path of this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from blocklora.classifier.card import CARD, model_card
from blocklora.classifier.evidence import EVIDENCE, hide_names
from blocklora.classifier.files import ADAPTER, CLASSIFIER_FILES
from blocklora.classifier.record import CLASSIFIER, ClassifierRecord
from blocklora.core.errors import ConfigError, RunError
from blocklora.core.files import write_json, write_text

__all__ = ["OnHub", "hub_use", "push_folder"]

_ADAPTER_CONFIG = f"{ADAPTER}/adapter_config.json"
_ALLOWED = {
    *(name for name in CLASSIFIER_FILES if name != ADAPTER),
    _ADAPTER_CONFIG,
    f"{ADAPTER}/adapter_model.safetensors",
    CARD,
}
_LOG_IN = "log in with 'hf auth login', or set HF_TOKEN, with a token that may write there"


class OnHub:
    """Puts a classifier on the hub, and gets it from there; for a class that has ``save`` and ``load``."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the classifier to a folder."""
        raise NotImplementedError

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        model: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Read a classifier from a folder."""
        raise NotImplementedError

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Put the classifier on the hub, with a model card; images stay here.

        Args:
            repo_id: ``user/name``; it is made if need be.
            private: Whether a repository that is made is private.

        Returns:
            Its address.

        Raises:
            ConfigError: ``repo_id`` is no name for a repository.
            RunError: The hub cannot be reached, or refuses.
        """
        with tempfile.TemporaryDirectory() as work:
            self.save(work)
            record = ClassifierRecord.read(Path(work))
            card = model_card(record, use=hub_use(repo_id), library="blocklora")
            return push_folder(Path(work), repo_id, card, private=private)

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
        model: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Get a classifier from the hub, or from the local cache where the hub cannot be reached.

        Args:
            repo_id: ``user/name``, as ``push_to_hub`` or ``blocklora push`` took it.
            revision: A branch, tag or commit.
            device: See ``load``.
            precision: See ``load``.
            model: See ``load``.

        Raises:
            ConfigError: ``repo_id`` is no name of a repository.
            RunError: There is no such classifier on the hub, or it cannot be reached.
            ModelError: The base model cannot be loaded.
        """
        return cls.load(_fetch(repo_id, revision), device=device, precision=precision, model=model)


def hub_use(repo_id: str) -> str:
    """Return how a classifier on the hub is used, in Markdown."""
    return f"""```python
from blocklora import FewShotClassifier  # pip install blocklora

classifier = FewShotClassifier.from_pretrained("{repo_id}")
classifier.predict(["image.jpg"])
```"""


def push_folder(folder: Path, repo_id: str, card: str, *, private: bool = False) -> str:
    """Put a classifier on the hub in one commit; files of an earlier one there are gone afterwards.

    Args:
        folder: A RUN folder, or what ``save`` wrote; all that is no part of the classifier stays here.
        repo_id: ``user/name``.
        card: The text of its model card.
        private: Whether a repository that is made is private.

    Returns:
        Its address.

    Raises:
        ConfigError: ``repo_id`` is no name for a repository.
        RunError: The folder holds no classifier, or the hub cannot be reached, or refuses.
    """
    ClassifierRecord.read(folder)
    with tempfile.TemporaryDirectory() as work:
        staged = Path(work)
        _stage(folder, staged)
        write_text(staged / CARD, card)
        up = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
        if up - _ALLOWED:
            raise RunError(f"{folder}: {', '.join(sorted(up - _ALLOWED))} must not be uploaded.")
        api = HfApi()
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id,
                folder_path=staged,
                commit_message="Upload a classifier of blocklora",
                delete_patterns=["*.safetensors", f"{ADAPTER}/*"],
            )
        except HFValidationError as error:
            raise _no_name(repo_id, error) from error
        except Exception as error:  # of the hub, or of whatever HTTP library is under it
            raise RunError(f"{repo_id}: cannot be put on the hub ({_reason(error)}); {_LOG_IN}.") from error
    return str(url)


def _stage(folder: Path, staged: Path) -> None:
    """Copy what a classifier is made of; a base model in a folder of this machine is called by the folder's name."""
    for name in sorted(_ALLOWED - {CARD}):
        if (folder / name).is_file():
            (staged / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, staged / name)
    if (staged / EVIDENCE).is_file():
        hide_names(staged)
    for name, key in ((CLASSIFIER, "model"), (_ADAPTER_CONFIG, "base_model_name_or_path")):
        if (staged / name).is_file():
            content = json.loads((staged / name).read_text(encoding="utf-8"))
            model = str(content.get(key) or "")
            if Path(model).is_absolute():
                write_json(staged / name, content | {key: Path(model).name})


def _fetch(repo_id: str, revision: str | None) -> Path:
    """Return a local copy of a classifier on the hub."""
    try:
        return Path(HfApi().snapshot_download(repo_id, revision=revision, allow_patterns=sorted(_ALLOWED)))
    except HFValidationError as error:
        raise _no_name(repo_id, error) from error
    except LocalEntryNotFoundError as error:
        raise RunError(
            f"{repo_id}: is not in the local cache, and the hub cannot be reached; go online once, or load a folder."
        ) from error
    except RepositoryNotFoundError as error:
        raise RunError(
            f"{repo_id}: no such classifier on the hub, or it is private; check the spelling, or log in with 'hf auth "
            "login'."
        ) from error
    except Exception as error:  # of the hub, or of whatever HTTP library is under it
        raise RunError(f"{repo_id}: cannot be fetched from the hub ({_reason(error)}).") from error


def _no_name(repo_id: str, error: Exception) -> ConfigError:
    return ConfigError(f"repo_id '{repo_id}': expected a name such as user/name ({_reason(error)}).")


def _reason(error: Exception) -> str:
    """Return the first line of what went wrong."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
