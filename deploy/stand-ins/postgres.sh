#!/bin/sh
# What the official image of PostgreSQL does at the start: create the data folder, and run the scripts once.
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
export PGHOST=/tmp
data=/var/lib/postgresql/data/cluster
if [ ! -e "$data/PG_VERSION" ]; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/password
    initdb --pgdata "$data" --username "$POSTGRES_USER" --pwfile /tmp/password --encoding UTF8 --auth-local trust --auth-host scram-sha-256
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
    pg_ctl --pgdata "$data" --wait --options "-c listen_addresses= -c unix_socket_directories=$PGHOST" start
    for script in /docker-entrypoint-initdb.d/*.sh; do sh "$script"; done
    pg_ctl --pgdata "$data" --wait stop
fi
exec postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories="$PGHOST"
