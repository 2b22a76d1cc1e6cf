# syntax=docker/dockerfile:1

FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
# The caches keep what was downloaded and built, so that a change builds only what it touches. They
# are no part of the image, hence the copy.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --bin event-piper && \
    cp target/release/event-piper /event-piper

# The example of an aggregator, for the demo profile of docker-compose.yml only.
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

# Certificates beside the base system, and a user without rights. There is no PostgreSQL in it, so
# DATABASE_URL (or DATABASE_URL_FILE) has to name one.
FROM debian:bookworm-slim
RUN apt-get update && \
    apt-get install --yes --no-install-recommends ca-certificates && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --system --no-create-home --shell /usr/sbin/nologin event-piper
USER event-piper
COPY --from=build /event-piper /usr/local/bin/event-piper
EXPOSE 4000
STOPSIGNAL SIGTERM
# Reads the same variables as serve, so it asks where that listens.
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s \
    CMD ["/usr/local/bin/event-piper", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/event-piper"]
CMD ["serve"]
