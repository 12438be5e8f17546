# Stands for the official rabbitmq:3: RABBITMQ_DEFAULT_USER and _PASS, and a data folder that outlives the container's name
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends rabbitmq-server \
 && rm -rf /var/lib/apt/lists/* /var/lib/rabbitmq/mnesia \
 && install -d -o rabbitmq -g rabbitmq /etc/rabbitmq/conf.d
COPY rabbitmq-entry.sh /usr/local/bin/docker-entrypoint.sh
ENV RABBITMQ_LOGS=- RABBITMQ_NODENAME=rabbit@localhost HOME=/var/lib/rabbitmq PATH=/usr/lib/rabbitmq/bin:$PATH LANG=C.UTF-8
USER rabbitmq
EXPOSE 5672
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["rabbitmq-server"]
