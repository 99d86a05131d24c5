"""Training: the device, the pictures of every step, the loop, and its checkpoint."""

from blocklora.training.checkpoint import Checkpoint
from blocklora.training.device import (
    autocast,
    compute_dtype,
    make_accelerator,
    peak_memory_bytes,
    resolve_device,
    resolve_precision,
)
from blocklora.training.loop import Training, train
from blocklora.training.memory import plan_memory
from blocklora.training.minimise import OnStep
from blocklora.training.pictures import TrainingPictures
from blocklora.training.step import Plan

__all__ = [
    "Checkpoint",
    "OnStep",
    "Plan",
    "Training",
    "TrainingPictures",
    "autocast",
    "compute_dtype",
    "make_accelerator",
    "peak_memory_bytes",
    "plan_memory",
    "resolve_device",
    "resolve_precision",
    "train",
]
