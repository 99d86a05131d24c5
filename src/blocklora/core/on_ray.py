"""A connection to a Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from blocklora.core.errors import ConfigError

__all__ = ["connect"]


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """Yield Ray, connected; a connection that was made here ends with the block.

    Args:
        address: Such as ``ray://head:10001``; ``auto`` is the cluster that this machine belongs to, or else one of this
            machine alone, which ends with the block.

    Raises:
        ConfigError: Ray is missing, or there is no such cluster.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError(f"ray '{address}': needs Ray: pip install 'blocklora[ray]'.") from None
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(
            address=None if address == "auto" else address, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"ray '{address}': no cluster answers there ({reason}); start one with 'ray start --head', or take --ray "
            "auto."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
