"""What all tests share: the loop whose clock jumps, and how much is tried."""

from __future__ import annotations

import support  # noqa: F401  # its profile is the default of every test that is read from here on

pytest_plugins = ["async_throttle.pytest_plugin"]
