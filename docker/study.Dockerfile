# What trains a share of a study, or fetches MNIST: deploy/kubernetes/study and mnist.
#
#   docker build -f docker/study.Dockerfile -t samedigit:study .
#
# It trains on CPUs, yet torch's wheels of the package index hold CUDA, several gigabytes of it: a lock of your own with the CPU's
# builds goes in by --build-arg REQUIREMENTS=...
ARG PYTHON=3.11
FROM docker.io/library/python:${PYTHON}-slim
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin samedigit
ARG REQUIREMENTS=requirements/study.txt
COPY ${REQUIREMENTS} /tmp/requirements.txt
RUN pip install --no-cache-dir --only-binary :all: --require-hashes -r /tmp/requirements.txt
WORKDIR /app
COPY digits digits
COPY scratch scratch
COPY runtimes runtimes
COPY training training
COPY serving serving
COPY loadtests loadtests
COPY comparison comparison
COPY samedigit samedigit
ENV PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BENTOML_HOME=/tmp/bentoml \
    BENTOML_DO_NOT_TRACK=true \
    SAMEDIGIT_DATA_DIR=/mnist
USER 10001:10001
ENTRYPOINT ["python", "-m", "samedigit"]
