"""A finished run as a folder that works without blocklora: an adapter, a checkpoint, ONNX models, or arrays."""
