# One image for all roles: `statsvc upgrade`, `statsvc serve`, `statsvc runner`, Dask scheduler and workers.
FROM python:3.12-slim AS build
# EXTRAS   extras of statsvc to install
# TORCH    "torch" for workers with a GPU, which installs the version in constraints.txt; empty otherwise
ARG EXTRAS=workers,service,formats,postgres,s3
ARG TORCH=
RUN python -m venv /opt/statsvc
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY statsvc statsvc
COPY workers workers
RUN /opt/statsvc/bin/pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" ${TORCH}

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home statsvc
COPY --from=build /opt/statsvc /opt/statsvc
ENV PATH=/opt/statsvc/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STATSVC_HOME=/home/statsvc/state \
    NUMBA_CACHE_DIR=/home/statsvc/numba
USER statsvc
WORKDIR /home/statsvc
CMD ["statsvc", "--help"]
