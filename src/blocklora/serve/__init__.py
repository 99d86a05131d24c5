"""The service: finished runs behind HTTP, with a page. No module here imports torch, but ``torch_backend``."""
