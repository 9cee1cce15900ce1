# Locust with loadtests/locustfile.py: a master, or a worker, of docker/compose.yaml and deploy/kubernetes/load.
#
#   docker build -f docker/load.Dockerfile -t samedigit:load .
#
# MNIST's files are mounted at /mnist.
ARG PYTHON=3.11
FROM docker.io/library/python:${PYTHON}-slim
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin samedigit
COPY requirements/load.txt /tmp/
RUN pip install --no-cache-dir --only-binary :all: --require-hashes -r /tmp/load.txt
WORKDIR /app
COPY digits digits
COPY serving serving
COPY loadtests loadtests
ENV PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SAMEDIGIT_DATA_DIR=/mnist
USER 10001:10001
ENTRYPOINT ["locust", "-f", "/app/loadtests/locustfile.py"]
