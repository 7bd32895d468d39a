# syntax=docker/dockerfile:1.7
#
#   docker build --target cpu  -t landweave:0.1.0 .
#   docker build --target cuda -t landweave:0.1.0-cuda .
#
# One image for driver, scheduler and workers, so that their versions agree. docs/clusters/containers.md tells more.

ARG PYTHON=3.11.14-slim-bookworm

# What both images are made in: nothing of it but /opt/venv is kept.
FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./

FROM build AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=s3,planetary-computer,kubernetes,gateway
RUN pip install --index-url "${TORCH_INDEX}" --no-deps "$(grep '^torch==' constraints.txt)"
COPY engine engine
COPY training training
COPY cluster cluster
COPY pipelines pipelines
RUN pip install -c constraints.txt ".[${EXTRAS}]"

# The usual wheels of torch bring CUDA's libraries along; the driver comes from the machine. dask-cuda asks for a
# Dask of its own, so that alone is not as in constraints.txt.
FROM build AS build-cuda
ARG EXTRAS=s3,planetary-computer,kubernetes,gateway
ARG DASK_CUDA=dask-cuda[cu13]==26.10.0
RUN sed '/^dask==/d;/^distributed==/d' constraints.txt > constraints-cuda.txt
RUN pip install -c constraints-cuda.txt "$(grep '^torch==' constraints.txt)"
COPY engine engine
COPY training training
COPY cluster cluster
COPY pipelines pipelines
RUN pip install -c constraints-cuda.txt ".[${EXTRAS}]" "${DASK_CUDA}"

FROM python:${PYTHON} AS base
# tini passes signals on and reaps what ends; the wheels of rasterio bring all of GDAL but libexpat.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini libexpat1 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 landweave \
    && useradd --uid 1000 --gid 1000 --create-home landweave
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 MPLBACKEND=Agg \
    MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba
WORKDIR /work
RUN chown 1000:1000 /work
USER 1000:1000
ENTRYPOINT ["tini", "--"]
CMD ["landweave", "--help"]

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/venv /opt/venv

FROM base AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
