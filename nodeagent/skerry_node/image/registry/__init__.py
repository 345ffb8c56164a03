"""Talking to registries: who is asked, with which credentials, over which addresses. Bytes come out; nothing here reads or writes the store."""
