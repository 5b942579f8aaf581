# What one pod's agent may do, and nothing else: obtain users of one role, keep and end its own leases, keep and end its
# own login. Written as the policy "leasehold-app-readonly"; one policy per role, so that a pod gets what it needs.
#
# No path holds a wildcard: with one, whoever takes over a pod could list roles and mint users of any of them.

path "database/creds/app-readonly" {
  capabilities = ["read"]
}

# A lease's id begins with the path that issued it: leases of other roles, and other logins, are out of reach even for
# whoever has learned their ids. The parameters are those that the agent sends.
path "sys/leases/renew" {
  capabilities = ["update"]
  allowed_parameters = {
    "lease_id"  = ["database/creds/app-readonly/*"]
    "increment" = []
  }
}

# Without this a stop falls back to ending the login, which ends the leases too, though not before it is answered.
path "sys/leases/revoke" {
  capabilities = ["update"]
  allowed_parameters = {
    "lease_id" = ["database/creds/app-readonly/*"]
    "sync"     = []
  }
}

# The policy "default" has these as well, and much beside them: the login's role leaves it out
# (token_no_default_policy).
path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}

# Two more, for those who use them; they let nobody near a secret that is not theirs already.
#
# A token sink with wrap_ttl:
# path "sys/wrapping/wrap" {
#   capabilities = ["update"]
# }
#
# `leasehold check --engine` lists every right that is missing or too much. Without this it says that it cannot look, tries
# each role through its life all the same, and the trial shows what is missing:
# path "sys/capabilities-self" {
#   capabilities = ["update"]
# }
