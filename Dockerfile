# `pixellm serve` with pixellm-mini on onnxruntime, without torch (docs/serving.md). Needs a network to build, none to run.
FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /opt/pixellm
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN /opt/pixellm/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt '.[serve]'
# The model is made here; the language model that it is made from is not read again.
ENV PIXELLM_CACHE=/opt/cache
RUN /opt/pixellm/bin/pixellm models pull pixellm-mini && rm -r /opt/cache/parts

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin pixellm
COPY --from=build /opt/pixellm /opt/pixellm
COPY --from=build /opt/cache /opt/cache
ENV PATH=/opt/pixellm/bin:$PATH HOME=/tmp PIXELLM_CACHE=/opt/cache HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["pixellm", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["pixellm-mini"]
