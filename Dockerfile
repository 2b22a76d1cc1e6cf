# syntax=docker/dockerfile:1

FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
# The caches keep downloads and build results, so that a change rebuilds only what it affects. They
# are not part of the image, so the program is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --bin event-piper && \
    cp target/release/event-piper /event-piper

# The example aggregator, used only by the demo profile of docker-compose.yml.
FROM build AS build-aggregator
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --package aggregator && \
    cp target/release/aggregator /aggregator

FROM debian:bookworm-slim AS aggregator
RUN useradd --system --no-create-home --shell /usr/sbin/nologin aggregator && \
    install --directory --owner=aggregator /data
USER aggregator
COPY --from=build-aggregator /aggregator /usr/local/bin/aggregator
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/aggregator"]

# Adds certificates and an unprivileged user to the base system. The image does not contain PostgreSQL,
# so DATABASE_URL (or DATABASE_URL_FILE) must be set.
FROM debian:bookworm-slim
RUN apt-get update && \
    apt-get install --yes --no-install-recommends ca-certificates && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --system --no-create-home --shell /usr/sbin/nologin event-piper
USER event-piper
COPY --from=build /event-piper /usr/local/bin/event-piper
EXPOSE 4000
STOPSIGNAL SIGTERM
# Reads the same environment variables as serve, so it checks the address that serve listens on.
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s \
    CMD ["/usr/local/bin/event-piper", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/event-piper"]
CMD ["serve"]
