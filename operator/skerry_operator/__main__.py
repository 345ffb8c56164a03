"""`skerry-operator`: wait for the Lease, look at everything, then watch. Clocks and randomness come in here."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import sys
import time

import kopf

from skerry_operator import access, errors, handlers, health, settings
from skerry_operator.client import Client
from skerry_operator.controller import Controller
from skerry_operator.events import Recorder
from skerry_operator.imagecontroller import ImageController
from skerry_operator.inventory import Inventory
from skerry_operator.kubeapi import KubeApi
from skerry_operator.lease import Leadership
from skerry_operator.lifecycle import render_time
from skerry_operator.metrics import Metrics
from skerry_operator.nodewatch import NodeWatch
from skerry_operator.settings import Settings

_LOG = logging.getLogger("skerry.operator")
_SYNC_RETRY_SECONDS = 1.0


def main() -> None:
    """The console script."""
    given = settings.parse(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        asyncio.run(_run(given))
    except* errors.OperatorError as group:
        sys.exit(f"skerry-operator: {_first(group)}")


def _first(error: BaseException) -> BaseException:
    """What went wrong first, out of the groups that tasks wrap it in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


async def _run(given: Settings) -> None:
    entrance = await access.load(given.kubeconfig)
    connection, apart = Client(entrance), Client(entrance)  # a burst of writes must not hold up the Lease
    leadership = Leadership(
        apart, namespace=given.system_namespace, identity=given.identity, lease_seconds=given.lease_seconds, monotonic=time.monotonic, now=_now
    )
    metrics = Metrics()
    connection.on_answer = apart.on_answer = metrics.api_answered
    if given.metrics_port:
        metrics.serve(given.metrics_port)
    probes = None
    if given.health_port:
        probes = await health.serve(given.health_port, silence_seconds=leadership.silence_seconds, limit_seconds=2 * given.lease_seconds)
    try:
        await leadership.acquire()
        metrics.leader.set(1)
        await _lead(given, entrance, connection, leadership, metrics)
    finally:
        await leadership.release()
        if probes is not None:
            await probes.cleanup()
        await connection.close()
        await apart.close()


async def _lead(given: Settings, entrance: access.Access, connection: Client, leadership: Leadership, metrics: Metrics) -> None:
    """Until a signal ends kopf, or the Lease is lost."""
    inventory = Inventory()
    kubeapi = KubeApi(connection, leadership, system_namespace=given.system_namespace)
    recorder = Recorder(kubeapi, now=lambda: render_time(_now()))
    watch = NodeWatch(kubeapi, inventory, recorder, settings=given, metrics=metrics, monotonic=time.monotonic, now=_now)
    controller = Controller(kubeapi, inventory, watch, recorder, settings=given, metrics=metrics, now=_now)
    images = ImageController(kubeapi, inventory, watch, now=_now)
    keeping = asyncio.create_task(leadership.keep())
    working = asyncio.create_task(_work(controller, images, recorder))
    registry = handlers.make_registry(controller, images, entrance)
    watching = asyncio.create_task(kopf.operator(registry=registry, settings=handlers.make_settings(), standalone=True, clusterwide=True))
    tasks = (keeping, working, watching)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, errors.OperatorError, ExceptionGroup):
                await task


async def _work(controller: Controller, images: ImageController, recorder: Recorder) -> None:
    while True:
        try:
            await controller.sync()
            break
        except errors.RequestFailed as error:
            _LOG.warning("nothing known yet problem=%s", error)
            await asyncio.sleep(_SYNC_RETRY_SECONDS)
    async with asyncio.TaskGroup() as group:
        group.create_task(recorder.run())
        group.create_task(controller.run())
        group.create_task(images.run())


if __name__ == "__main__":
    main()
