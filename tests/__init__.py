"""Tests of every kind, and the harness that they share."""
