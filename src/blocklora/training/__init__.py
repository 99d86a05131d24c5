"""Training: the device, the pictures of every step, the loop, and its checkpoint."""

from blocklora.training.checkpoint import Checkpoint
from blocklora.training.loop import Training, train
from blocklora.training.memory.limits import plan_memory
from blocklora.training.minimise import OnStep
from blocklora.training.pictures import TrainingPictures
from blocklora.training.step import Plan

__all__ = [
    "Checkpoint",
    "OnStep",
    "Plan",
    "Training",
    "TrainingPictures",
    "plan_memory",
    "train",
]
