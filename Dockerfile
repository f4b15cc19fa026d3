# The program in a container: python:3.11-slim, a user without rights, and a file system that may be read-only.
#
#   docker build -t llm-fallback .
#   docker build -t llm-fallback --build-arg WITH_MODEL=0 .     without the embedded model: 100 MB less
#
# Everything that is written goes to /data (log, state, caches); mount a volume there.

FROM python:3.11-slim AS build

ARG WITH_MODEL=1
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /app
COPY requirements.txt ./
RUN python -m venv /venv && /venv/bin/pip install --requirement requirements.txt

COPY fallback ./fallback
RUN mkdir -p /models && if [ "$WITH_MODEL" = 1 ]; then \
        /venv/bin/python -m fallback.local --folder /models install; \
    fi

FROM python:3.11-slim

# The embedded model's engine needs OpenMP.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin fallback \
    && install --directory --owner fallback --group fallback /data /data/logs

COPY --from=build /venv /venv
COPY --from=build /models /models
WORKDIR /app
COPY main.py streamlit_app.py providers.yaml ./
COPY .streamlit ./.streamlit
COPY pages ./pages
COPY fallback ./fallback
# The log and the state beside it stand in the folder of the configuration unless it says otherwise.
RUN ln -s /data/logs /app/logs

ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FALLBACK_DATA_DIR=/models \
    HOME=/data \
    TMPDIR=/tmp \
    HOST=0.0.0.0 \
    PORT=5000

USER fallback
EXPOSE 5000
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/healthz\", timeout=2)"]

# Without API_KEYS and DASHBOARD_PASSWORD the program refuses to listen beyond loopback: docker-compose.yml says when --insecure is in order.
ENTRYPOINT ["python", "main.py"]
