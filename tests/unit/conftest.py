"""Unit tests: `make check` tries fewer examples of each property (`--hypothesis-profile quick`), `make test` the usual hundred."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("usual", deadline=None)  # how long an example takes is the machine's matter
hypothesis.settings.register_profile("quick", max_examples=20, deadline=None)
hypothesis.settings.load_profile("usual")
