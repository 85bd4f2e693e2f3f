# The CPU serving image: `heatward serve` with the embedded detector, as an unprivileged user.
#
#   docker build -t heatward .
#   docker run -p 50051:50051 heatward                                          # the embedded CIFAR-10 detector
#   docker run -p 50051:50051 -v ./my.heatward:/my.heatward:ro heatward heatward serve /my.heatward
#
# Where your package index offers CPU builds of torch AND torchvision, name it with
# --build-arg PIP_INDEX_URL=… : the default builds carry CUDA libraries that a CPU does not use.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY proto ./proto
RUN python -m venv /opt/heatward && /opt/heatward/bin/pip install -c constraints.txt ".[serve]"

FROM ${BASE} AS serve
ARG VERSION=0.2.0
LABEL org.opencontainers.image.title="heatward" \
      org.opencontainers.image.description="Adversarial-input detection for image classifiers, over gRPC" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 heatward \
 && useradd --uid 10001 --gid heatward --no-create-home --shell /usr/sbin/nologin heatward
COPY --from=build /opt/heatward /opt/heatward
WORKDIR /app
COPY detector ./detector
COPY server ./server
# A container is reached from outside itself: listen on every address. Python writes nothing into the image.
ENV PATH=/opt/heatward/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HEATWARD_SERVE_HOST=0.0.0.0
USER 10001:10001
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["heatward", "health"]
CMD ["heatward", "serve"]
