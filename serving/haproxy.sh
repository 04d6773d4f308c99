#!/bin/sh
# HAProxy as Ray Serve starts it, kept to this machine: Serve's configuration opens its figures to the network, and its
# socket of administration to everybody here.
set -e
umask 077
config=$3 # haproxy -db -f FILE ...
chmod 700 "$(dirname "$config")"
sed -i \
    -e 's/^ *bind :\([0-9]*\)$/    bind 127.0.0.1:\1/' \
    -e 's/^ *bind \*:\([0-9]*\)$/    bind 127.0.0.1:\1/' \
    -e 's/ mode 666 / mode 600 /' \
    "$config"
exec "$TRUNKLINE_HAPROXY" "$@"
