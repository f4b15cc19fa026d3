# The program in a container: python:3.11-slim, a user without rights, and a file system that may be read-only.
#
#   docker build -t llm-fallback .
#   docker build -t llm-fallback --build-arg WITH_MODEL=0 .     without the embedded model: 100 MB less
#
# Everything that is written goes to /data (log, state, caches); mount a volume there. docs/deployment.md has the rest.

FROM python:3.11-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

WORKDIR /app
COPY requirements.txt ./
RUN python -m venv /venv && /venv/bin/pip install --requirement requirements.txt

# The weights before the rest, so that most changes of the program do not fetch them anew.
ARG WITH_MODEL=1
COPY fallback/__init__.py ./fallback/
COPY fallback/core ./fallback/core
COPY fallback/local ./fallback/local
RUN mkdir /models \
    && if [ "$WITH_MODEL" = 1 ]; then /venv/bin/python -m fallback.local --folder /models install; fi

COPY main.py streamlit_app.py providers.yaml ./
COPY .streamlit ./.streamlit
COPY pages ./pages
COPY fallback ./fallback
# Compiled here, since a read-only file system keeps nothing that a start compiles. The log and the state beside it stand
# in the folder of the configuration unless it says otherwise: /data itself, since a volume may begin empty. The rights of the files are those of somebody's checkout,
# which may be closed to others.
RUN /venv/bin/python -m compileall -q -f --invalidation-mode unchecked-hash . \
    && rm requirements.txt \
    && ln -s /data logs \
    && chmod -R a+rX,go-w /app /models

FROM python:3.11-slim

# The embedded model's engine needs OpenMP. No version: Debian keeps only the newest one, and a pinned one would be gone
# with the next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin fallback \
    && install --directory --owner fallback --group fallback /data

COPY --from=build /venv /venv
COPY --from=build /models /models
COPY --from=build /app /app
WORKDIR /app

ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FALLBACK_DATA_DIR=/models \
    HOME=/data \
    TMPDIR=/tmp \
    HOST=0.0.0.0 \
    PORT=5000

# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 5000
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/healthz\", timeout=2)"]

# Without API_KEYS and DASHBOARD_PASSWORD the program refuses to listen beyond loopback: docker-compose.yml tells it with --published who can reach it.
ENTRYPOINT ["python", "main.py"]
