"""The resources as values: parse, validate, render. No I/O, no clock, no client library; every component may import it."""
