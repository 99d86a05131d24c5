"""Training: the images of every step, the loop, its checkpoint, and how a step is cut to fit into memory."""

from blocklora.training.checkpoint import Checkpoint
from blocklora.training.images import TrainingImages
from blocklora.training.loop import Training, train
from blocklora.training.memory.limits import MemoryPlan, host_room, plan_memory
from blocklora.training.minimise import Batches, Curve, OnStep, Steps, minimise
from blocklora.training.pace import OnExpected, Pace, seconds_a_step, steps_in_time
from blocklora.training.progress import progress_on_stderr
from blocklora.training.step import Plan
from blocklora.training.views import FixedViews

__all__ = [
    "Batches",
    "Checkpoint",
    "Curve",
    "FixedViews",
    "MemoryPlan",
    "OnExpected",
    "OnStep",
    "Pace",
    "Plan",
    "Steps",
    "Training",
    "TrainingImages",
    "host_room",
    "minimise",
    "plan_memory",
    "progress_on_stderr",
    "seconds_a_step",
    "steps_in_time",
    "train",
]
