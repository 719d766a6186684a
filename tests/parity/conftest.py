"""The parity tests use the golden tool, which runs as a module from the repository's root; so must its import here."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
