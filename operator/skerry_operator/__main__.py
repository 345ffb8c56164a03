"""`skerry-operator`: the cluster's one operator. Several may run; the holder of the Lease writes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import kopf
from prometheus_client import start_http_server

from skerry_operator import handlers, kubeapi
from skerry_operator.controller import Controller
from skerry_operator.lease import Leadership
from skerry_operator.settings import Settings


def main(argv: Sequence[str] | None = None) -> None:
    """Run until asked to stop."""
    settings = read_settings(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)
    if settings.kubeconfig:
        os.environ["KUBECONFIG"] = settings.kubeconfig
    if settings.metrics_port:
        start_http_server(settings.metrics_port)
    asyncio.run(run(settings))


async def run(settings: Settings) -> None:
    """Run the operator until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    api = await kubeapi.connect(settings.kubeconfig)
    leadership = Leadership(api, settings)
    controller = Controller(settings, api, leadership)
    tasks = [
        asyncio.create_task(leadership.run()),
        asyncio.create_task(controller.run()),
        asyncio.create_task(_watch(controller, stop)),
    ]
    await asyncio.wait([*tasks, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    await api.close()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _watch(controller: Controller, stop: asyncio.Event) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await kopf.operator(
            registry=handlers.make_registry(controller), clusterwide=True, standalone=True, stop_flag=stop, settings=kopf.OperatorSettings()
        )


def read_settings(argv: Sequence[str] | None) -> Settings:
    """Settings from flags."""
    parser = argparse.ArgumentParser(prog="skerry-operator", description="Binds sandboxes to nodes, expires them, declares nodes lost.")
    parser.add_argument(
        "--kubeconfig", default=os.environ.get("KUBECONFIG"), help="how to reach the API server (default: KUBECONFIG, or the pod's account)"
    )
    parser.add_argument("--system-namespace", default="skerry-system", help="where the Leases are (default: skerry-system)")
    parser.add_argument("--node-lost-seconds", type=float, default=40.0, help="a node without heartbeat for so long is lost (default: 40)")
    parser.add_argument("--lease-seconds", type=float, default=15.0, help="how long leadership lasts without renewal (default: 15)")
    parser.add_argument("--metrics-port", type=int, default=0, help="port for Prometheus (default: none)")
    parser.add_argument("--identity", default=f"{socket.gethostname()}-{os.getpid()}", help="who holds the Lease (default: host and pid)")
    return Settings(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
