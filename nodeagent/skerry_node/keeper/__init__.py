"""The keeper: the one parent of every sandbox on a node. Standard library and `kernel.syscalls` only; no client library, no policy."""
