# ERNIE-4.5 on Triton. Two targets, the same scripts as without Docker:
#   docker build --target cpu -t ernie-triton .
#   docker build --target gpu -t ernie-triton:gpu [--build-arg PADDLE_INDEX=<Paddle's wheel index>] .
#   docker run --rm -p 8180:8180 --shm-size 2g ernie-triton [flags]
#   docker run --rm --gpus all -p 8180:8180 --shm-size 8g --ulimit memlock=-1 --ulimit stack=67108864 \
#       -v /data/models:/models ernie-triton:gpu --executor cuda --model /models/ERNIE-4.5-VL-28B-A3B-Paddle
# The gpu target has this project's kernels; with PADDLE_INDEX also Paddle for `--device gpu:0`.
# Pixels and Triton's tensors travel through /dev/shm: Docker's 64 MB are too few.
ARG TRITON_VERSION=26.07
ARG CUDA_VERSION=13.0.1

FROM python:3.11-slim-bookworm AS cpu-base
RUN apt-get update \
    && apt-get install -y --no-install-recommends fonts-roboto-unhinted libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 triton-server

FROM nvcr.io/nvidia/tritonserver:${TRITON_VERSION}-py3 AS gpu-base
RUN apt-get update \
    && apt-get install -y --no-install-recommends fonts-roboto-unhinted python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The same Ubuntu, and so the same Python, as Triton's image.
FROM nvcr.io/nvidia/cuda:${CUDA_VERSION}-devel-ubuntu24.04 AS kernels
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake ninja-build python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/build
COPY scripts/requirements/kernels.txt /opt/ernie/scripts/requirements/kernels.txt
RUN /opt/build/bin/python -m pip install --no-cache-dir -r /opt/ernie/scripts/requirements/kernels.txt
COPY scripts/build_kernels.sh /opt/ernie/scripts/build_kernels.sh
COPY kernels /opt/ernie/kernels
RUN PYTHON=/opt/build/bin/python /opt/ernie/scripts/build_kernels.sh

FROM cpu-base AS cpu-packages
ENV ERNIE_VENV=/opt/venv PIP_NO_CACHE_DIR=1
COPY scripts/setup_env.sh /opt/ernie/scripts/setup_env.sh
COPY scripts/requirements /opt/ernie/scripts/requirements
RUN /opt/ernie/scripts/setup_env.sh serve

FROM gpu-base AS gpu-packages
ARG PADDLE_INDEX
ENV ERNIE_VENV=/opt/venv PIP_NO_CACHE_DIR=1
COPY scripts/setup_env.sh /opt/ernie/scripts/setup_env.sh
COPY scripts/requirements /opt/ernie/scripts/requirements
RUN /opt/ernie/scripts/setup_env.sh serve \
    && if [ -n "${PADDLE_INDEX}" ]; then \
        /opt/venv/bin/python -m pip uninstall --yes paddlepaddle \
        && /opt/venv/bin/python -m pip install --index-url "${PADDLE_INDEX}" "paddlepaddle-gpu>=3.2.1"; \
    fi

FROM cpu-packages AS cpu
COPY . /opt/ernie
WORKDIR /opt/ernie
USER triton-server
EXPOSE 8180
HEALTHCHECK --start-period=120s CMD ["/opt/venv/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8180/health', timeout=3)"]
ENTRYPOINT ["scripts/serve.sh"]

FROM gpu-packages AS gpu
COPY . /opt/ernie
COPY --from=kernels /opt/ernie/kernels/ /opt/ernie/kernels/
WORKDIR /opt/ernie
USER triton-server
EXPOSE 8180
HEALTHCHECK --start-period=900s CMD ["/opt/venv/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8180/health', timeout=3)"]
ENTRYPOINT ["scripts/serve.sh"]
