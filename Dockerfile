# The agent as an image: nothing but Python, the locked dependencies and the program, byte-compiled, run by a number.
#
#   docker build -t leasehold .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges \
#     --tmpfs /run/leasehold:mode=0750,uid=65532,gid=65532 --tmpfs /etc/secrets:mode=0750,uid=65532,gid=65532 \
#     -v ./agent.toml:/etc/leasehold/agent.toml:ro leasehold
#
# The base is pinned by digest: the same bytes on every build. Tag and digest move together.
ARG PYTHON=docker.io/library/python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /src

# Dependencies first: they change less often than the program. Every file is checked against its locked hash.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN python -m venv /tools \
 && /tools/bin/pip install -q --require-hashes -r requirements/build.txt \
 && python -m venv --without-pip /opt/leasehold \
 && /tools/bin/pip --python /opt/leasehold/bin/python install -q --require-hashes --only-binary :all: -r requirements/runtime.txt

COPY pyproject.toml README.md ./
COPY agent agent
# Byte code that is never checked against its source: the image does not change, and the start reads fewer files.
RUN /tools/bin/pip wheel -q --no-deps --no-build-isolation -w /wheels . \
 && /tools/bin/pip --python /opt/leasehold/bin/python install -q --no-deps --no-index /wheels/*.whl \
 && /opt/leasehold/bin/python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash /opt/leasehold/lib

FROM ${PYTHON}
# What installs packages has no business beside credentials.
RUN python -m pip uninstall -q -y --root-user-action ignore pip \
 && rm -rf /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/idlelib /usr/local/bin/idle* /usr/local/bin/pip* \
      /root/.cache
COPY --from=build /opt/leasehold /opt/leasehold
COPY templates /usr/share/leasehold/templates
ENV PATH=/opt/leasehold/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root. The ids of the app's volumes are given by the pod (fsGroup).
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["leasehold"]
CMD ["run"]
