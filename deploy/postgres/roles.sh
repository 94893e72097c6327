#!/bin/sh
# Runs once, when PostgreSQL creates its data folder. Neither role is a superuser.
# statsvc      owns the catalog: `statsvc upgrade`, runners, and commands of an administrator
# statsvc_api  the API servers; `statsvc upgrade --api-role statsvc_api` grants what they need
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set owner="$STATSVC_PASSWORD" --set api="$STATSVC_API_PASSWORD" <<'SQL'
CREATE ROLE statsvc LOGIN PASSWORD :'owner';
CREATE ROLE statsvc_api LOGIN PASSWORD :'api';
CREATE DATABASE statsvc OWNER statsvc;
REVOKE ALL ON DATABASE statsvc FROM PUBLIC;
GRANT CONNECT ON DATABASE statsvc TO statsvc_api;
SQL
