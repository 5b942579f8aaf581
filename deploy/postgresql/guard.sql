-- Optional. A superuser runs this once in each database that lease users may enter; running it again is fine.
--
-- CREATE RULE takes the strongest lock on its table before the server looks whether the user may. On pg_authid, behind
-- one open transaction that has merely read pg_roles, that lock waits, and every login of the whole server behind it. No
-- SQL ends this, a superuser's neither. PostgreSQL cannot take the command from anybody; an event trigger can.
--
-- Write the marker group's name where it is not leasehold_lease (`marker_group` of the configuration).
CREATE SCHEMA IF NOT EXISTS leasehold_guard;

CREATE OR REPLACE FUNCTION leasehold_guard.refuse() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF EXISTS (
    SELECT FROM pg_auth_members m
    JOIN pg_roles g ON g.oid = m.roleid
    JOIN pg_roles u ON u.oid = m.member
    WHERE g.rolname = 'leasehold_lease' AND u.rolname = session_user AND NOT m.admin_option AND NOT u.rolsuper
  ) THEN
    RAISE EXCEPTION 'leasehold: lease users may not use %', tg_tag USING ERRCODE = 'insufficient_privilege';
  END IF;
END
$$;

DROP EVENT TRIGGER IF EXISTS leasehold_guard;
CREATE EVENT TRIGGER leasehold_guard ON ddl_command_start
  WHEN TAG IN ('CREATE RULE') EXECUTE FUNCTION leasehold_guard.refuse();
