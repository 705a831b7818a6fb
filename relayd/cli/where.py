"""Where the configuration is, unless somebody says otherwise."""

from __future__ import annotations

from pathlib import Path

DEFAULT_CONFIG = Path("/etc/relayd/config.toml")
CONFIG_VARIABLE = "RELAYD_CONFIG"  # of the environment
