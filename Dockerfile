# Two images from one base: skerry-operator (operator, gateway and the command line; nobody's rights) and skerry-agent (root of its node).
#   buildah bud --target agent -t skerry-agent .
# BASE is any Debian 12; what it lacks is installed. Wheels in a directory `wheels` are at hand for PIP_FLAGS="--no-index --find-links=/src".
# With SOURCE_DATE_EPOCH and `--timestamp`, the same sources and base give the same layers.
ARG BASE=docker.io/library/debian:12-slim

FROM ${BASE} AS base
RUN command -v python3 >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/*; }

FROM base AS build
ARG PIP_FLAGS=""
RUN python3 -c 'import ensurepip' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; }
COPY requirements-runtime.lock wheels*/*.whl /src/
RUN python3 -m venv /opt/skerry && /opt/skerry/bin/pip install --quiet --no-cache-dir --no-compile --require-hashes --only-binary :all: ${PIP_FLAGS} \
    -r /src/requirements-runtime.lock && rm -rf /opt/skerry/lib/python3*/site-packages/pip* /opt/skerry/lib/python3*/site-packages/setuptools* \
    /opt/skerry/bin/pip* && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/skerry/lib
COPY api/skerry_api /opt/skerry/lib/skerry/skerry_api
COPY operator/skerry_operator /opt/skerry/lib/skerry/skerry_operator
COPY nodeagent/skerry_node /opt/skerry/lib/skerry/skerry_node
COPY client/skerry /opt/skerry/lib/skerry/skerry
COPY crds /opt/skerry/lib/skerry/skerry_api/crds
# our own packages by a .pth, and the commands as pip would write them; bytecode now, since roots are read-only, and by hash, since times differ
RUN cd /opt/skerry && find lib/skerry -name __pycache__ -prune -exec rm -rf {} + \
    && echo /opt/skerry/lib/skerry > "$(echo lib/python3*/site-packages)/skerry.pth" \
    && for pair in skerry:skerry.__main__ kubectl-skerry:skerry.__main__ skerry-operator:skerry_operator.__main__ \
         skerry-gateway:skerry_operator.gateway.__main__ skerry-agent:skerry_node.__main__; do \
         printf '#!/opt/skerry/bin/python3\nimport sys\nfrom %s import main\nsys.exit(main())\n' "${pair#*:}" > "bin/${pair%%:*}" \
         && chmod 755 "bin/${pair%%:*}"; done \
    && python3 -m compileall -q --invalidation-mode unchecked-hash lib/skerry

FROM base AS operator
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="skerry-operator" org.opencontainers.image.description="Skerry's operator, gateway and command line" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/skerry /opt/skerry
ENV PATH=/opt/skerry/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
CMD ["skerry-operator"]

FROM base AS agent
ARG VERSION=0.1.0
RUN command -v nft mkfs.ext4 >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends nftables e2fsprogs \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/*; }
LABEL org.opencontainers.image.title="skerry-agent" org.opencontainers.image.description="Skerry's node agent" \
      org.opencontainers.image.version="${VERSION}" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/skerry /opt/skerry
ENV PATH=/opt/skerry/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
CMD ["skerry-agent"]
