"""Limits by the names of concurry. So far: the algorithms."""

from async_throttle.rules.algorithm import RateLimitAlgorithm

__all__ = ["RateLimitAlgorithm"]
