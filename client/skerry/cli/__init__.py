"""The commands of `skerry`: options in, calls of the SDK, text out. Nothing here speaks HTTP."""
