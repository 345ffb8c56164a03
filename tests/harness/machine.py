"""What kind of machine the tests run on, where that decides how much a test can ask of it."""

from __future__ import annotations

import os

IS_EMULATED = os.environ.get("SKERRY_VM") == "tcg"
"""The virtual machine of `make test-vm` without KVM: it hashes 20 MB a second, and takes 20 to 40 times as long as its host for anything."""

PATIENCE = 4.0 if IS_EMULATED else 1.0
"""By how much longer to wait there for what must happen, before a test says that it did not."""
