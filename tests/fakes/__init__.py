"""Small stand-ins that behave as the real thing does where a test needs faults on demand. No assertion belongs here."""
