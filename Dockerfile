# ERNIE-4.5 on Triton, CPU image: `docker build -t ernie-triton .` and
# `docker run --rm -p 8180:8180 --shm-size 2g ernie-triton [flags]`.
# The same two scripts as without Docker; the server inside is the one that nvidia-pytriton carries.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends fonts-roboto-unhinted libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 triton-server

WORKDIR /opt/ernie
ENV ERNIE_VENV=/opt/venv PYTHONUNBUFFERED=1
COPY scripts/setup_env.sh scripts/setup_env.sh
COPY scripts/requirements scripts/requirements
RUN scripts/setup_env.sh serve && rm -rf /root/.cache

COPY pyproject.toml README.md ./
COPY backend backend
COPY kernels kernels
COPY model_repository model_repository
COPY openai_frontend openai_frontend
COPY scripts scripts
COPY checkpoints checkpoints

USER triton-server
EXPOSE 8180
HEALTHCHECK --start-period=120s CMD ["/opt/venv/bin/python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8180/health', timeout=3)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["scripts/serve.sh"]
