"""A complete local Ecommerce Bridge. It shares no code with the pushing path."""

from pusher.bridge.config import BridgeConfig
from pusher.bridge.server import running_bridge

__all__ = ["BridgeConfig", "running_bridge"]
