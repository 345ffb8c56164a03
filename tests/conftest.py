"""The whole suite's: the harness's fixtures."""

pytest_plugins = ("tests.harness.fixtures",)
