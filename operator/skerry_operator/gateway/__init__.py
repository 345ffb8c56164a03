"""The gateway: the aggregated API `stream.skerry.dev`. It knows callers, rights, tickets and streams; it binds, writes and decides no sandbox."""
