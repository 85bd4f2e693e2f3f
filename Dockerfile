# The images of heatward. What each setting is for, sizes and how to make a small one: docs/operations.md.
#
#   docker build --target serve -t heatward .                  # serving on CPUs; also what no target at all makes
#   docker build --target serve-cuda -t heatward:cuda .        # serving on NVIDIA GPUs
#   docker build --target train -t heatward:train .            # heatward train, evaluate, explain, retrain
#   docker build --build-arg EXTRAS=record,remote …            # and what the package has extras for
#   docker run -p 50051:50051 heatward                         # the embedded CIFAR-10 detector
#
# Pin the base by its digest where builds must repeat: --build-arg BASE=python@sha256:…
ARG BASE=python:3.11.14-slim-bookworm

# ---- Python packages. Compilers, pip's cache and the sources stay in these stages. ----------------------------------
FROM ${BASE} AS packages
ARG PIP_INDEX_URL
ARG CYCLONEDX=7.5.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/heatward/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY proto ./proto
RUN python3 -m venv /opt/sbom && /opt/sbom/bin/pip install "cyclonedx-bom==${CYCLONEDX}" \
 && python3 -m venv /opt/heatward

FROM packages AS packages-serve
ARG PIP_INDEX_URL
# An index, beside the usual one, with CPU builds of torch and torchvision: without it, x86-64 gets CUDA libraries too.
ARG CPU_INDEX_URL
ARG EXTRAS
RUN pip install ${CPU_INDEX_URL:+--extra-index-url "${CPU_INDEX_URL}"} -c constraints.txt \
    ".[serve,trace${EXTRAS:+,${EXTRAS}}]" \
 && /opt/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml -o /opt/heatward/sbom.cdx.json \
    /opt/heatward/bin/python

# ---- What every image has in common. A container is reached from outside itself: it listens on every address. -------
FROM ${BASE} AS common
ARG BASE
ARG VERSION=0.7.0
ARG REVISION=
LABEL org.opencontainers.image.title="heatward" \
      org.opencontainers.image.description="Adversarial-input detection for image classifiers, over gRPC" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 heatward \
 && useradd --uid 10001 --gid heatward --no-create-home --shell /usr/sbin/nologin heatward
# Nothing is written into the image: it runs with a read-only root.
ENV PATH=/opt/heatward/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY detector ./detector
USER 10001:10001
STOPSIGNAL SIGTERM

# ---- Serving on CPUs ------------------------------------------------------------------------------------------------
FROM common AS serve
COPY --from=packages-serve /opt/heatward /opt/heatward
COPY server ./server
ENV HEATWARD_SERVE_HOST=0.0.0.0
EXPOSE 50051 9090
# Follows HEATWARD_SERVE_PORT.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["heatward", "health"]
CMD ["heatward", "serve"]

# ---- Serving on NVIDIA GPUs: the usual builds of torch bring CUDA along, the host brings the driver. ----------------
FROM packages AS packages-cuda
ARG PIP_INDEX_URL
ARG EXTRAS
RUN pip install -c constraints.txt ".[serve,trace${EXTRAS:+,${EXTRAS}}]" \
 && /opt/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml -o /opt/heatward/sbom.cdx.json \
    /opt/heatward/bin/python

FROM common AS serve-cuda
COPY --from=packages-cuda /opt/heatward /opt/heatward
COPY server ./server
ENV HEATWARD_SERVE_HOST=0.0.0.0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 50051 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["heatward", "health"]
CMD ["heatward", "serve"]

# ---- Training, on GPUs where there are some -------------------------------------------------------------------------
FROM packages-cuda AS packages-train
ARG PIP_INDEX_URL
ARG EXTRAS
RUN pip install -c constraints.txt ".[train${EXTRAS:+,${EXTRAS}}]" \
 && /opt/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml -o /opt/heatward/sbom.cdx.json \
    /opt/heatward/bin/python

FROM common AS train
COPY --from=packages-train /opt/heatward /opt/heatward
COPY training ./training
COPY forensics ./forensics
COPY examples ./examples
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    MPLCONFIGDIR=/tmp/matplotlib
HEALTHCHECK NONE
CMD ["heatward", "train", "--help"]

# ---- Without a target ------------------------------------------------------------------------------------------------
FROM serve
