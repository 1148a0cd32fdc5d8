#!/bin/sh
# Starts Grafana with a password of its own: made at the first start, printed once, kept readable by
# its user only. The password of the original document is public and refused.
set -eu
file="${SECMON_GRAFANA_PASSWORD_FILE:-/var/lib/grafana/admin.password}"
if [ "${GF_SECURITY_ADMIN_PASSWORD:-}" = vecsec_admin ] || [ "${GF_SECURITY_ADMIN_PASSWORD:-}" = admin ]; then
  echo "GF_SECURITY_ADMIN_PASSWORD is a published default; choose another or leave it unset" >&2
  exit 2
fi
if [ -z "${GF_SECURITY_ADMIN_PASSWORD:-}" ]; then
  if [ ! -s "$file" ]; then
    (umask 077; head -c 24 /dev/urandom | base64 | tr '+/' '-_' > "$file")
    echo "Grafana user admin, password $(cat "$file")"
  fi
  GF_SECURITY_ADMIN_PASSWORD=$(cat "$file")
  export GF_SECURITY_ADMIN_PASSWORD
fi
exec "${SECMON_GRAFANA_RUN:-/run.sh}" "$@"
