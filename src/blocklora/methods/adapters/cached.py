"""Fixed views of the training images for adapters in the top blocks: how many, and where they are kept."""

from __future__ import annotations

from blocklora.clip import LeanTowers, Towers
from blocklora.core.choices import Choice
from blocklora.core.errors import ConfigError
from blocklora.core.resources import format_bytes
from blocklora.methods.adapters.settings import AdapterSettings
from blocklora.methods.method import Job
from blocklora.training import FixedViews, TrainingImages, host_room
from blocklora.training.memory.planner import ModelShape
from blocklora.training.memory.shapes import model_shape
from blocklora.training.memory.views import VIEWS_MEMORY, VIEWS_SHARE, sensible_views, view_bytes

__all__ = ["fixed_views", "views_choice"]


def fixed_views(
    job: Job, settings: AdapterSettings, towers: Towers, images: TrainingImages, steps: int
) -> FixedViews:
    """Return as many views of the images as the settings ask for, or as make sense.

    Args:
        job: A run that goes on keeps its number.
        settings: With ``cached_views``.
        towers: The model with its adapters.
        images: The training images.
        steps: How many steps there will be.

    Raises:
        ConfigError: Nothing can be computed beforehand: the first block is adapted, or the ordinary forward runs.
    """
    if not isinstance(towers, LeanTowers):
        raise ConfigError(
            f"cached_views {settings.cached_views}: needs the lean engine, and this model runs on the ordinary forward"
            f"{f': {towers.why}' if towers.why else ''}; leave cached_views out."
        )
    shape = model_shape(towers.model.config, towers.trained, 0)
    if shape.vision.first == 0:
        raise ConfigError(
            f"cached_views {settings.cached_views}: the first block of the image tower is adapted, so that nothing can "
            "be computed beforehand; expected --layers top-N, or --towers text."
        )
    one = view_bytes(shape)
    room = int(VIEWS_MEMORY * host_room(job.device, settings.memory_limit, job.resources))

    def decide() -> int:
        wanted = settings.cached_views or min(
            room // (one * len(images)), _sensible(job, images, shape, steps)
        )
        return max(1, 1 if images.fixed else wanted)

    number = job.checkpoint.first_start("views", decide) if job.checkpoint else decide()
    needed = number * len(images) * one
    on_disk = job.checkpoint.path.parent if job.checkpoint and needed > room else None
    if needed > room and not on_disk:
        raise ConfigError(
            f"cached_views {number}: needs {format_bytes(needed)} of the {format_bytes(room)} there are for it; ask "
            "for fewer, or for 0, as many as fit."
        )
    return FixedViews(images, number, needed, on_disk)


def _sensible(job: Job, images: TrainingImages, shape: ModelShape, steps: int) -> int:
    """Return how many views make sense, in the time that is left."""
    most = sensible_views(shape, len(images), images.batch_size, steps)
    if job.deadline:
        most = min(most, int(VIEWS_SHARE * job.deadline.left() / (len(images) * job.forward_seconds)))
    return most


def views_choice(settings: AdapterSettings, views: FixedViews | None) -> dict[str, Choice]:
    """Return how the number of views was chosen; empty where it was given, or there are none."""
    if views is None or settings.cached_views:
        return {}
    reason = "as many as are seen, and as fit into memory, time and a quarter of the computing"
    return {"views of an image": Choice(views.number, "fixed", reason)}
