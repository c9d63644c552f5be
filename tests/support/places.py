"""Where things are in this repository."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
SUPPORT = TESTS / "support"
GOLDEN = TESTS / "golden"  # the reference's figures
