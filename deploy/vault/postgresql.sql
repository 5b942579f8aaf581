-- What the database needs before Vault can mint users on it. As a superuser (or whoever may), in the app's database:
--   psql -X -v ON_ERROR_STOP=1 -d appdb -f postgresql.sql
-- and then \password "vault-admin", so that the password stands in no file and no history. PostgreSQL 14 or later.

-- The rights. Every minted user is its member, and what such a user creates belongs to it. A single right more here is
-- one more for every pod.
CREATE ROLE app_readers NOLOGIN;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO app_readers;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO app_readers;

-- Vault's own login: may create roles and hand out this one group. No superuser.
CREATE ROLE "vault-admin" LOGIN CREATEROLE NOSUPERUSER;
GRANT app_readers TO "vault-admin" WITH ADMIN OPTION;
