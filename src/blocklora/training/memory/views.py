"""What fixed views cost, and how many of them make sense."""

from __future__ import annotations

from blocklora.core.errors import ConfigError
from blocklora.training.memory.costs import image_rows, tower_cost
from blocklora.training.memory.planner import ModelShape

__all__ = ["VIEWS_MEMORY", "VIEWS_SHARE", "planned_views", "sensible_views", "view_bytes"]

VIEWS_MEMORY = 0.5
"""Of the memory that is left, what views may take."""
VIEWS_SHARE = 0.25
"""Of the computing of all steps, or of the time that is left, what computing the views may take."""
_MOST = 16  # that are chosen; who wants more asks for them
_KEPT_BYTES, _FEATURE_BYTES = (
    2,
    4,
)  # of a number: of tokens, and of the features of a tower that is not trained


def view_bytes(model: ModelShape) -> int:
    """Return what is kept of one view: its tokens before the first adapted block, or its features."""
    if model.vision.first < model.vision.layers:
        return _KEPT_BYTES * model.tokens * model.vision.width
    return _FEATURE_BYTES * model.space


def sensible_views(model: ModelShape, n_images: int, batch_size: int, steps: int) -> int:
    """Return how many views make sense: at most 16, none that is never seen, and for a quarter of the computing.

    Args:
        model: Its shape, with adapters.
        n_images: Training images.
        batch_size: Images a step.
        steps: How many.
    """
    epochs = -(-steps // -(-n_images // min(batch_size, n_images)))
    rows = image_rows(batch_size, model.tokens)
    every, above = (tower_cost(model.vision, rows, "all", 4, prefix_known=known) for known in (False, True))
    once = (every.forward - above.forward) * n_images / batch_size
    return max(1, min(_MOST, epochs, int(VIEWS_SHARE * steps * (above.forward + above.backward) / once)))


def planned_views(
    model: ModelShape, asked: int | None, n_images: int, batch_size: int, steps: int
) -> tuple[int, int]:
    """Return how many fixed views of an image there will be, and their bytes; none where nothing asks for them.

    Args:
        model: Its shape, with adapters.
        asked: How many are asked for; 0 is as many as make sense.
        n_images: Training images.
        batch_size: Images a step.
        steps: How many.

    Raises:
        ConfigError: The first block of the image tower is adapted.
    """
    if asked is None:
        return 0, 0
    if not model.vision.first:
        raise ConfigError(f"cached_views {asked}: the first block is adapted; expected --layers top-N.")
    number = asked or sensible_views(model, n_images, batch_size, steps)
    return number, number * n_images * view_bytes(model)
