"""`python -m bench.pictures [SECONDS]`: play the scenario of the dashboards for five minutes, ask every query, and draw docs/pictures. Needs root."""

from __future__ import annotations

import os
import sys
import tempfile
import time

from dashboards import pages, pictures
from tests.harness import scenario

_PICTURES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs", "pictures")


def main() -> None:
    """Draw all of them."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    os.makedirs(_PICTURES, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="skerry-pictures-") as directory, scenario.running(directory, tag="pi") as (cluster, prometheus):
        began = time.time()
        scenario.play(cluster)
        number = 0
        while time.time() - began < seconds:
            number += 1
            scenario.create(cluster, f"short-{number}", "sleep 3; exit $((RANDOM % 2))", ttl={"secondsAfterFinished": 5})
            cluster.plane.kubectl("get", "--raw", "/apis/stream.skerry.dev/v1alpha1/namespaces/default/sandboxes/busy/stats", check=False)
            time.sleep(2.0)
        end = time.time()
        told = {each["metric"]["__name__"] for each in prometheus.query('{__name__=~"skerry_.*"}')}
        for page in pages.ALL:
            for panel in page.panels:
                for query in panel.queries if not panel.needs or panel.needs in told else ():
                    if not scenario.has_data(prometheus.query(scenario.adapt(query.expression, "1m"))):
                        print(f"no data: {page.title} / {panel.title}: {query.expression}")

            def ask(expression: str) -> list[dict[str, object]]:
                step = max((end - began) / 150, 1.0)
                return prometheus.query_range(scenario.adapt(expression, "30s"), start=began, end=end, step_seconds=step)

            empty = pictures.draw(page, ask, os.path.join(_PICTURES, f"{page.uid}.png"))
            print(f"{page.uid}: {len(page.panels)} panels, {empty} empty")


if __name__ == "__main__":
    main()
