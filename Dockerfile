# Two stages: the first installs hash-pinned packages, the second has only what runs. Non-root.
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/sublet
COPY requirements/runtime.txt /source/requirements/runtime.txt
RUN /opt/sublet/bin/pip install --quiet --require-hashes -r /source/requirements/runtime.txt
COPY pyproject.toml README.md LICENSE /source/
COPY app /source/app
COPY providers /source/providers
COPY migrations /source/migrations
RUN /opt/sublet/bin/pip install --quiet --no-deps --no-build-isolation /source

FROM ${PYTHON}
ENV PATH=/opt/sublet/bin:$PATH PYTHONUNBUFFERED=1 SUBLET_DATA=/var/lib/sublet
RUN useradd --uid 10001 --home-dir /var/lib/sublet --create-home --shell /usr/sbin/nologin sublet
COPY --from=build /opt/sublet /opt/sublet
USER 10001:10001
WORKDIR /var/lib/sublet
VOLUME /var/lib/sublet
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s \
  CMD ["python", "-m", "app.alive"]
ENTRYPOINT ["sublet"]
CMD ["up", "--host", "0.0.0.0"]
