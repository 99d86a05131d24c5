"""From class names to the sentences that CLIP's text tower reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blocklora.core.errors import ConfigError

__all__ = ["ENSEMBLES", "chosen_templates", "ensemble", "prompts"]

ENSEMBLES = ("imagenet-7", "imagenet-80")
_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "prompts"


def prompts(class_names: Sequence[str], template: str) -> list[str]:
    """Put each class name into a prompt template.

    Underscores become spaces, as in CoOp's published prompts, and outer blanks go.

    Args:
        class_names: One name a class, in label order.
        template: A sentence with "{}" exactly once, such as "a photo of a {}.". Other braces stay as written.

    Returns:
        One prompt a class, in the same order.

    Raises:
        ConfigError: If the template does not hold "{}" exactly once, or a class name is blank.
    """
    found = template.count("{}")
    if found != 1:
        raise ConfigError(
            f"prompt template {template!r} holds '{{}}' {found} times: write '{{}}' exactly once, where the "
            "class name goes, as in 'a photo of a {}.'; names or numbers inside the braces are not filled in"
        )
    names = [name.replace("_", " ").strip() for name in class_names]
    for raw, name in zip(class_names, names, strict=True):
        if not name:
            raise ConfigError(f"class name {raw!r} is blank in a prompt: rename the class")
    return [template.replace("{}", name) for name in names]


def ensemble(name: str) -> tuple[str, ...]:
    """Return a published list of templates, whose class features are averaged.

    Args:
        name: ``imagenet-80`` or ``imagenet-7``, the full list and the short one of openai/CLIP
            ``notebooks/Prompt_Engineering_for_ImageNet.ipynb`` (MIT).

    Raises:
        ConfigError: There is no such list.
    """
    if name not in ENSEMBLES:
        raise ConfigError(f"prompts '{name}': expected one of {', '.join(ENSEMBLES)}")
    return tuple((_FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines())


def chosen_templates(
    prompt: str | Sequence[str] | None, prompts: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """Return the template that trains (None is the data set's own) and those that predict (none: that one).

    Raises:
        ConfigError: Several templates and a published ensemble are both asked for, or there is no such ensemble.
    """
    given = (prompt,) if isinstance(prompt, str) else tuple(prompt or ())
    if prompts and len(given) > 1:
        raise ConfigError(
            f"prompts '{prompts}': expected no more than one prompt beside it, not {len(given)}."
        )
    averaged = ensemble(prompts) if prompts else given if len(given) > 1 else ()
    return next(iter(given), None), averaged
