"""Put a new file in the place of an old one so that a power failure leaves one of the two."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["replace_durably"]


def replace_durably(new: Path, target: Path) -> None:
    """Rename a synced file over another one in the same folder, and sync the folder.

    Raises:
        OSError: that failed.
    """
    new.replace(target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
