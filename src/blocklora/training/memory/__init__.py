"""What a training step costs, and how it is cut to fit into memory."""
