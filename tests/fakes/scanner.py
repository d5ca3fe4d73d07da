"""What tests of the compiled scanner need."""

from __future__ import annotations

import pytest

from pusher.decoding import HAS_SCANNER

needs_scanner = pytest.mark.skipif(
    not HAS_SCANNER, reason="the scanner is not built: no C compiler was there"
)
