"""Fixtures that several test modules share."""

from __future__ import annotations

from local_model_fixture import local_weights, real_model
from redis_server import shared_redis

__all__ = ["local_weights", "real_model", "shared_redis"]
