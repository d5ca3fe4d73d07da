"""`python -m benchmarks.timed FILE ...`: run pusher, and write down the CPU of its event loop.

The event loop runs in the main thread; reading, and Kafka's client, in others.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from pusher.__main__ import main as pusher_main


def main() -> None:
    """Run pusher with the arguments behind the first, which is the file to write."""
    path = Path(sys.argv.pop(1))
    try:
        pusher_main()
    finally:
        path.write_text(json.dumps({"loop_s": time.thread_time(), "all_s": time.process_time()}))


if __name__ == "__main__":
    main()
