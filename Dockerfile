# Gastown's two images, of one source:
#
#   docker build --target control -t gastown .          the API, beat, workers, Flower and the command line
#   docker build --target agent -t gastown-agent .      git and the supervisor: put your agents' programs on top (examples/)
#
# Packages come from PyPI, each checked against the hash in requirements/. A folder `wheelhouse` here (`make wheelhouse`
# fills it, with the same checks) is used instead, where a build cannot reach PyPI. For a build that is the same for ever,
# name the bases by their digests: --build-arg CONTROL_BASE=debian:bookworm-slim@sha256:...

ARG CONTROL_BASE=debian:bookworm-slim
ARG AGENT_BASE=python:3.11-slim-bookworm

# --- agent: what every attempt runs in. Any base will do that is made of Debian's packages, or has git and python3 (3.11+).

FROM ${AGENT_BASE} AS agent
ARG SOURCE_DATE_EPOCH=1767225600
RUN set -e; \
    if ! command -v git > /dev/null || ! command -v python3 > /dev/null; then \
        apt-get update; \
        command -v python3 > /dev/null || python=python3; \
        apt-get install -y --no-install-recommends ca-certificates git git-lfs openssh-client $python; \
        apt-get clean; \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log; \
    fi; \
    getent passwd 1000 > /dev/null || useradd --uid 1000 --user-group --no-log-init --create-home agent
COPY gastown/agent /opt/gastown/gastown/agent
RUN set -e; \
    : > /opt/gastown/gastown/__init__.py; \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/gastown; \
    find /opt/gastown -exec touch --no-dereference --date=@${SOURCE_DATE_EPOCH} {} +
ENV PYTHONPATH=/opt/gastown
# The protocol of gastown.agent: Gastown starts no image that does not say which one it speaks
LABEL dev.gastown.supervisor="2"
USER 1000:1000
# The supervisor reads its order from standard input, and its heartbeats are its health
HEALTHCHECK NONE
CMD ["python3", "-P", "-m", "gastown.agent", "--foreground"]

# --- control

FROM ${CONTROL_BASE} AS packages
ARG SOURCE_DATE_EPOCH=1767225600
RUN apt-get update && apt-get install -y --no-install-recommends binutils ca-certificates python3 python3-venv
COPY requirements/build.txt requirements/control.txt wheelhous[e] /wheels/
RUN set -e; \
    python3 -m venv --without-pip /opt/gastown; \
    python3 -m venv /build; \
    for each in /wheels/*.whl; do if [ -e "$each" ]; then offline="--no-index --find-links /wheels"; fi; done; \
    options="--no-cache-dir --disable-pip-version-check --require-hashes --only-binary=:all: $offline"; \
    /build/bin/pip install -q $options -r /wheels/build.txt; \
    /build/bin/pip --python /opt/gastown/bin/python install -q --no-compile $options -r /wheels/control.txt
COPY pyproject.toml README.md /src/
COPY gastown /src/gastown
# Without what nothing here runs, and compiled once for all, so that images of the same source are the same
RUN set -e; \
    cd /src; \
    /build/bin/pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /src/dist .; \
    /build/bin/pip --python /opt/gastown/bin/python install -q --disable-pip-version-check --no-index --no-deps --no-compile dist/*.whl; \
    cd /opt/gastown/lib/python3*/site-packages; \
    find . -type d \( -name tests -o -name test -o -name testing \) -prune -exec rm -rf {} +; \
    find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) -delete; \
    rm -f gastown-*.dist-info/direct_url.json gastown-*.dist-info/RECORD; \
    find sqlalchemy yaml wcwidth -name '*.so' -exec strip --strip-unneeded {} +; \
    rm -f /opt/gastown/bin/activate* /opt/gastown/bin/Activate*; \
    python3 -m compileall -q --invalidation-mode unchecked-hash -x 'pygments/(lexers|styles)|prompt_toolkit|wcwidth' .; \
    find /opt/gastown -exec touch --no-dereference --date=@${SOURCE_DATE_EPOCH} {} +

# git without perl, and what only people or servers run
FROM ${CONTROL_BASE} AS git
RUN set -e; \
    apt-get update; \
    apt-get install -y --no-install-recommends git git-lfs; \
    mkdir -p /git/usr/bin /git/usr/lib /git/usr/share; \
    cp -a /usr/bin/git /usr/bin/git-lfs /usr/bin/git-upload-pack /usr/bin/git-receive-pack /git/usr/bin/; \
    cp -a /usr/lib/git-core /git/usr/lib/; \
    cp -a /usr/share/git-core /git/usr/share/; \
    cd /git/usr/lib/git-core; \
    grep -lsE '^#!.*(perl|python)' * | xargs -r rm -f; \
    rm -f git-shell git-daemon git-http-backend git-http-fetch git-http-push git-imap-send git-subtree scalar; \
    ln -sf ../../bin/git git

FROM ${CONTROL_BASE} AS control
RUN set -e; \
    apt-get update; \
    apt-get install -y --no-install-recommends \
        ca-certificates libcurl3-gnutls libexpat1 libpcre2-8-0 openssh-client python3 zlib1g; \
    apt-get clean; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log; \
    rm -rf /usr/lib/python3*/lib2to3 /usr/lib/python3*/pydoc_data /usr/lib/python3*/__pycache__/turtle*; \
    useradd --uid 1000 --user-group --no-log-init --create-home gastown; \
    install -d -o 1000 -g 1000 -m 0700 /var/lib/gastown
COPY --from=git /git /
COPY --from=packages /opt/gastown /opt/gastown
ENV PATH=/opt/gastown/bin:$PATH \
    LANG=C.UTF-8 \
    GASTOWN_HOME=/var/lib/gastown \
    GASTOWN_CONTAINERISED=1 \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /home/gastown
EXPOSE 8484 5555
HEALTHCHECK --interval=15s --timeout=15s --start-period=180s --retries=3 CMD ["python", "-P", "-m", "gastown.embedded.health"]
ENTRYPOINT ["gastown"]
CMD ["--help"]
