# Stands for the official python:3.11-slim-bookworm where no registry can be reached: `python`, `python3` and `pip` on PATH
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /usr/local/venv \
 && ln -s /usr/local/venv/bin/* /usr/local/bin/
ENV PATH=/usr/local/venv/bin:$PATH LANG=C.UTF-8
CMD ["python3"]
