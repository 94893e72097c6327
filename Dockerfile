# One image for all roles: `statsvc upgrade`, `statsvc serve`, `statsvc runner`, Dask scheduler and workers.
# BASE     any image with Python 3.11 or newer and its venv module
# EXTRAS   extras of statsvc to install
# TORCH    "torch" for workers with a GPU, which installs the version in constraints.txt; empty otherwise
ARG BASE=python:3.12-slim@sha256:57cd7c3a7a273101a6485ba99423ee568157882804b1124b4dd04266317710de
FROM ${BASE} AS build
ARG EXTRAS=workers,service,formats,postgres,s3
ARG TORCH=
RUN python3 -m venv /opt/statsvc
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY statsvc statsvc
COPY workers workers
RUN /opt/statsvc/bin/pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" ${TORCH}

FROM ${BASE}
# A new volume gets the owner of the folder on which it is mounted.
RUN useradd --uid 10001 --create-home statsvc && install --directory --owner statsvc --group statsvc /versions
COPY --from=build /opt/statsvc /opt/statsvc
# The rest of the file system can be read-only. For a catalog and versions that last, mount a volume and set
# STATSVC_HOME, or use a database and a version store.
ENV PATH=/opt/statsvc/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STATSVC_HOME=/tmp/statsvc \
    NUMBA_CACHE_DIR=/tmp/numba
USER statsvc
WORKDIR /home/statsvc
CMD ["statsvc", "--help"]
