# A gateway or a bootstrap node: no torch, no root, nothing written but under /data and /tmp.
# docker build -f k8s/images/gateway.Dockerfile -t bucket-brigade/gateway .

ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        gcc libc6-dev libgmp-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/brigade
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY shared shared
COPY gateway gateway
COPY worker worker
RUN /opt/brigade/bin/pip install --no-cache-dir -c constraints.txt . \
    && /opt/brigade/bin/pip uninstall -y pip setuptools

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgmp10 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --home-dir /data brigade \
    && install -d -o brigade -g brigade /data
COPY --from=build /opt/brigade /opt/brigade
ENV PATH=/opt/brigade/bin:$PATH \
    HOME=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GATEWAY_HOST=0.0.0.0 \
    GATEWAY_LOG_FORMAT=json \
    BOOTSTRAP_HOST=0.0.0.0 \
    BOOTSTRAP_LOG_FORMAT=json
WORKDIR /data
USER 10001:10001
EXPOSE 8000 4001
STOPSIGNAL SIGTERM
ENTRYPOINT ["brigade"]
CMD ["gateway"]
