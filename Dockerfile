# The gateway without a broker and without tools: 91 MB above the slim image of Python (measured).
#
#   docker build -t mesolive-gateway:0.1.0 .
#   docker run --read-only -v ./keys:/etc/gateway/accounts:ro -e GATEWAY_HUB__URL=… -e GATEWAY_BROKER__SERVERS=… \
#     -e GATEWAY_ACCOUNTS__DIRECTORY=/etc/gateway/accounts mesolive-gateway:0.1.0
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /source
COPY requirements-image.lock .
RUN pip wheel --no-cache-dir --no-deps --require-hashes --wheel-dir /wheels --requirement requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
# What builds the package stays here; what runs it goes into an environment without pip. The versions are those of /wheels.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --no-index --find-links /wheels hatchling \
    && pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m venv --without-pip /opt/gateway \
    && pip --python /opt/gateway install --no-cache-dir --no-index --find-links /wheels mesolive-gateway

FROM ${PYTHON}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="MesoLive event gateway" \
      org.opencontainers.image.description="Republishes every MesoLive Event Hub callback onto typed topics, in order and exactly once." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1
# By number, so that Kubernetes sees that it is not root. Nothing is written: the root may be read-only, /tmp too.
USER 65532:65532
EXPOSE 8080 9090
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["gateway", "health"]
ENTRYPOINT ["gateway"]
CMD ["run"]
