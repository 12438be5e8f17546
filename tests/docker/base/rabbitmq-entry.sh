#!/bin/sh
set -e
cat > /etc/rabbitmq/conf.d/20-image.conf <<END
listeners.tcp.default = 5672
loopback_users = none
default_user = ${RABBITMQ_DEFAULT_USER:-guest}
default_pass = ${RABBITMQ_DEFAULT_PASS:-guest}
default_vhost = ${RABBITMQ_DEFAULT_VHOST:-/}
END
exec "$@"
