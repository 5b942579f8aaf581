#!/bin/sh
# Writes what a first pod needs into a Vault or OpenBao: the database engine with one connection and one role, the login
# of Kubernetes service accounts, and the policy between them. Run it again after a change: it writes the same again.
#
#   DB_ADMIN_PASSWORD_FILE=… deploy/vault/bootstrap.sh [DIRECTORY]
#
# DIRECTORY holds your copies of the JSON and HCL files beside this script; without it, those are written as they are.
# Where the server is and who you are is the CLI's business: VAULT_ADDR or BAO_ADDR, and `vault login` or `bao login`.
#
#   DB_ADMIN_PASSWORD_FILE  password of the database's "username"; never an argument, for arguments can be read by all
#   KUBERNETES_HOST         where tokens are reviewed (default https://kubernetes.default.svc)
#   KUBERNETES_CA_FILE      its CA, where the server runs outside of the cluster (inside, it finds both by itself)
#   REVIEWER_TOKEN_FILE     token of a service account that may review tokens; likewise
#   ROTATE_ADMIN=yes        let the server replace the admin's password by one that nobody else knows
#   VAULT_CLI               `bao` or `vault`, or where it is (default: whichever is found)
set -eu

fail() {
  echo "bootstrap: $*" >&2
  exit 1
}

from=${1:-$(dirname "$0")}
[ -r "${DB_ADMIN_PASSWORD_FILE:-}" ] || fail "DB_ADMIN_PASSWORD_FILE must name a file with the admin's password"
cli=${VAULT_CLI:-$(command -v bao || command -v vault)} || fail "neither bao nor vault is on PATH: set VAULT_CLI"
"$cli" token lookup >/dev/null || fail "the server does not know you: set VAULT_ADDR (or BAO_ADDR) and log in"

# A mount that is there already stays as it is, with its leases.
"$cli" read "sys/mounts/database" >/dev/null 2>&1 || "$cli" secrets enable database
"$cli" read "sys/auth/kubernetes" >/dev/null 2>&1 || "$cli" auth enable kubernetes

# The command substitution takes the line's end away, and printf is part of the shell: no argument holds the password.
printf %s "$(cat "$DB_ADMIN_PASSWORD_FILE")" |
  "$cli" write database/config/postgres "@$from/postgresql.database.json" password=-
if [ "${ROTATE_ADMIN:-no}" = yes ]; then
  "$cli" write -force database/rotate-root/postgres
fi
"$cli" write database/roles/app-readonly "@$from/app-readonly.role.json"

"$cli" policy write leasehold-app-readonly "$from/app-readonly.policy.hcl"

host=${KUBERNETES_HOST:-https://kubernetes.default.svc}
if [ -n "${REVIEWER_TOKEN_FILE:-}" ]; then
  [ -r "${KUBERNETES_CA_FILE:-}" ] || fail "REVIEWER_TOKEN_FILE takes KUBERNETES_CA_FILE as well"
  printf %s "$(cat "$REVIEWER_TOKEN_FILE")" |
    "$cli" write auth/kubernetes/config "kubernetes_host=$host" "kubernetes_ca_cert=@$KUBERNETES_CA_FILE" \
      disable_local_ca_jwt=true token_reviewer_jwt=-
else
  "$cli" write auth/kubernetes/config "kubernetes_host=$host"
fi
"$cli" write auth/kubernetes/role/app-service-role "@$from/app-service-role.auth.json"

echo "bootstrap: done; try it: $cli read database/creds/app-readonly"
