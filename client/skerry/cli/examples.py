"""What to type: the examples at the foot of every command's help."""

from __future__ import annotations

_EXAMPLES = {
    "run": (
        "skerry run --rm busybox:latest echo hello",
        "skerry run -d --name web -m 256m --cpus 0.5 busybox:latest httpd -f -p 8000",
        "skerry run -d --name site -p 8080:80 -p 127.0.0.1:5353:53/udp busybox:latest httpd -f",
        "skerry run --rm --network none -e TOKEN -u 1000 -w /tmp busybox:latest env",
    ),
    "ps": (
        "skerry ps",
        "skerry ps -a -o wide",
        "skerry ps -A --filter status=running --filter label=app=web",
        "skerry ps --watch",
        "skerry rm $(skerry ps -aq)",
    ),
    "attach": ("skerry attach web",),
    "stats": (
        "skerry stats",
        "skerry stats --no-stream web db",
    ),
    "top": ("skerry top web",),
    "pause": ("skerry pause web",),
    "unpause": ("skerry unpause web",),
    "cp": (
        "skerry cp web:/var/log/app.log .",
        "skerry cp -a ./site/. web:/srv",
        "skerry cp web:/etc - | tar tv",
    ),
    "port": ("skerry port web", "skerry port web 80/tcp"),
    "port-forward": ("skerry port-forward web 8080:80 9000",),
    "exec": (
        "skerry exec -it web sh",
        "skerry exec -u 1000 -w /tmp -e DEBUG=1 web env",
        "tar c . | skerry exec -i web tar x -C /srv",
    ),
    "kill": (
        "skerry kill web",
        "skerry kill -s HUP web",
    ),
    "logs": (
        "skerry logs web",
        "skerry logs -f --tail 20 -t web",
        "skerry logs --since 10m --stream stderr web",
    ),
    "inspect": (
        "skerry inspect web",
        "skerry inspect -o yaml web",
        "skerry inspect web | jq .node",
    ),
    "build": (
        "skerry build -t app:1 .",
        "skerry build -t app:1 -f docker/Dockerfile --build-arg VERSION=2 --target test .",
        "SOURCE_DATE_EPOCH=0 skerry build -q -t app:1 . --network default",
    ),
    "info": (
        "skerry info",
        "skerry info -o json",
    ),
    "version": (
        "skerry version",
        "skerry version -o json",
    ),
    "stop": (
        "skerry stop web",
        "skerry stop -t 2 web db",
    ),
    "start": ("skerry start web",),
    "restart": (
        "skerry restart web",
        "skerry restart -t 2 web db",
    ),
    "events": (
        "skerry events web",
        "skerry events -A",
    ),
    "rename": ("skerry run -d --name new-name busybox:latest sleep 1000",),
    "nodes": (
        "skerry nodes",
        "skerry nodes -o wide",
    ),
    "node cordon": ("skerry node cordon n1",),
    "node uncordon": ("skerry node uncordon n1 n2",),
    "node drain": (
        "skerry node drain --move n1",
        "skerry node drain --force --timeout 60 n1",
    ),
    "node purge": ("skerry node purge n1",),
    "completion": (
        "source <(skerry completion bash)",
        "skerry completion zsh > ~/.zfunc/_skerry",
    ),
    "rm": (
        "skerry rm web",
        "skerry rm -f web",
        "skerry rm $(skerry ps -aq)",
    ),
    "wait": (
        "skerry wait job",
        "skerry wait --for ready --timeout 10 web",
        "skerry wait --for deleted web",
    ),
    "export": (
        "skerry export -o web.tar web",
        "skerry export web | tar -t",
    ),
    "commit": (
        "skerry commit web web-image:1",
        """skerry commit -c 'CMD ["httpd", "-f"]' -c 'ENV MODE=live' -m 'as of today' web web-image:2""",
    ),
    "image import": (
        "skerry image import ./busybox-layout busybox:latest",
        "skopeo copy docker://alpine:3 oci-archive:alpine.tar && skerry image import alpine.tar alpine:3",
    ),
    "image pull": (
        "skerry image pull busybox:latest",
        "skerry image pull --auth-file ~/.docker/config.json registry.example.com/team/app:2",
        "skerry image pull -o json localhost:5000/app@sha256:...",
    ),
    "image ls": (
        "skerry image ls",
        "skerry image ls -o json",
    ),
    "image rm": ("skerry image rm busybox:latest",),
    "image inspect": (
        "skerry image inspect busybox:latest",
        "skerry image inspect busybox:latest | jq -r '.layers[].file'",
    ),
    "image history": ("skerry image history busybox:latest",),
    "image tag": ("skerry image tag busybox:latest registry.example.com/tools/busybox:1",),
    "image save": (
        "skerry image save -o tools.tar busybox:latest alpine:3",
        "skerry image save busybox:latest | docker load",
        "skerry image save --format oci-dir -o ./layout busybox:latest",
    ),
    "image push": (
        "skerry image push registry.example.com/tools/busybox:1",
        "skerry image push --auth-file ~/.docker/config.json busybox:latest registry.example.com/tools/busybox:1",
    ),
    "image prune": (
        "skerry image prune --dry-run",
        "skerry image prune -f",
    ),
}


def render(command: str) -> str:
    """The examples of *command*, as a paragraph that the help formatter, told by a backspace, leaves alone."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in _EXAMPLES[command])
