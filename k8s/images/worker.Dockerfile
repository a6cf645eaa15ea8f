# A worker, on CUDA as PyPI's torch has it, or on CPU alone and at a quarter of the size:
# docker build -f k8s/images/worker.Dockerfile -t bucket-brigade/worker .
# docker build -f k8s/images/worker.Dockerfile -t bucket-brigade/worker:cpu \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .

ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        gcc libc6-dev libgmp-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/brigade
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
# Torch in a layer of its own, and first: it is most of the image and changes least.
ARG TORCH_INDEX=
RUN /opt/brigade/bin/pip install --no-cache-dir -c constraints.txt \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY shared shared
COPY gateway gateway
COPY worker worker
RUN /opt/brigade/bin/pip install --no-cache-dir -c constraints.txt '.[worker]' \
    && /opt/brigade/bin/pip uninstall -y pip

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgmp10 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --home-dir /data brigade \
    && install -d -o brigade -g brigade /data
COPY --from=build /opt/brigade /opt/brigade
# The driver comes from the host, by NVIDIA's container runtime, which reads the last two.
ENV PATH=/opt/brigade/bin:$PATH \
    HOME=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    WORKER_HOST=0.0.0.0 \
    WORKER_PORT=7000 \
    WORKER_LOG_FORMAT=json \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data
USER 10001:10001
EXPOSE 7000
STOPSIGNAL SIGTERM
ENTRYPOINT ["brigade"]
CMD ["worker"]
