# One image for every role: `statsvc upgrade`, `serve --no-runner`, `runner`, and Dask's scheduler and workers.
FROM python:3.12-slim AS build
# EXTRAS   what is installed of statsvc
# TORCH    for workers with a GPU: a requirement such as torch==2.13.0; empty for none
ARG EXTRAS=workers,service,formats,postgres,s3
ARG TORCH=
RUN python -m venv /opt/statsvc
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY statsvc statsvc
COPY workers workers
RUN /opt/statsvc/bin/pip install --no-cache-dir ".[${EXTRAS}]" ${TORCH}

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
