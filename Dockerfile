# The gateway without a broker and without pip: 95 MB above the slim image of Python (91 measured with the extra `tracing`, 4 of cramjam).
#
#   docker build -t mesolive-gateway:0.1.0 .
#   docker build -t mesolive-gateway:0.1.0-tracing --build-arg EXTRA=tracing .    # for tracing.endpoint
#   docker run --read-only -v ./keys:/etc/gateway/accounts:ro -e GATEWAY_HUB__URL=… -e GATEWAY_BROKER__SERVERS=… \
#     -e GATEWAY_ACCOUNTS__DIRECTORY=/etc/gateway/accounts mesolive-gateway:0.1.0
# The digest is that of the tag's index, for all platforms. What the tag is now, tells
#   docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
ARG PYTHON=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

FROM ${PYTHON} AS build
WORKDIR /source
# Nothing, or `tracing`.
ARG EXTRA=
COPY requirements-image.lock requirements-image-tracing.lock requirements-build.lock ./
RUN pip wheel --no-cache-dir --no-deps --require-hashes --wheel-dir /wheels \
    --requirement "requirements-image${EXTRA:+-$EXTRA}.lock" --requirement requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
# What builds the package stays here; what runs it goes into an environment without pip. The versions are those of /wheels.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --no-index --find-links /wheels hatchling \
    && pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m venv --without-pip /opt/gateway \
    && pip --python /opt/gateway install --no-cache-dir --no-index --find-links /wheels "mesolive-gateway${EXTRA:+[$EXTRA]}"

FROM ${PYTHON}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="MesoLive event gateway" \
      org.opencontainers.image.description="Republishes every MesoLive Event Hub callback onto typed topics, in order and exactly once." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# The gateway runs on the standard library and its own environment: whatever installs packages goes.
RUN pip uninstall --yes setuptools wheel pip && rm -rf /usr/local/lib/python3*/ensurepip
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1
# By number, so that Kubernetes sees that it is not root. Nothing is written: the root may be read-only, /tmp too.
USER 65532:65532
EXPOSE 8080 9090
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["gateway", "health"]
ENTRYPOINT ["gateway"]
CMD ["run"]
