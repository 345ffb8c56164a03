"""`skerry-gateway`: serve stream.skerry.dev behind the API server. Any number may run."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from skerry_operator import access, errors
from skerry_operator.client import Client
from skerry_operator.gateway import settings
from skerry_operator.gateway.service import Service


def main() -> None:
    """The console script."""
    given = settings.parse(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_run(given))
    except* (errors.OperatorError, OSError) as group:
        sys.exit(f"skerry-gateway: {_first(group)}")


def _first(error: BaseException) -> BaseException:
    """What went wrong first, out of the groups that tasks wrap it in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(given: settings.Settings) -> None:
    connection = Client(await access.load(given.kubeconfig))
    task = asyncio.ensure_future(Service(given, connection).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        logging.getLogger("skerry.gateway").info("gateway ends")
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
