"""A classifier as ONNX models; these modules need the extra ``export``."""
