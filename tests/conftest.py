"""What all tests share: the loop whose clock jumps."""

from __future__ import annotations

pytest_plugins = ["async_throttle.pytest_plugin"]
