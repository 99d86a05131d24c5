"""What each of several processes does of a training step: its share of the images, and its share of the classes."""

from blocklora.training.distributed.gradients import add_gradients
from blocklora.training.distributed.shares import Piece, by_weight, own_passes, own_pieces, pieces

__all__ = ["Piece", "add_gradients", "by_weight", "own_passes", "own_pieces", "pieces"]
