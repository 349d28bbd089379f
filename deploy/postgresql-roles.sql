-- Three roles for one pipeline's database. Run once, in that database, as its superuser; then give each a
-- password with psql's \password, which keeps it out of the server's log. Safe to run again.
--
-- bargeline_owner     runs `bargeline migrate`: owns the tables, may create and change them
-- bargeline_loader    what loaders and janitors connect as; rights on single tables: postgresql-grants.sql
-- bargeline_reporter  reads: reports, `bargeline reconcile`, `bargeline doctor --reader`
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['bargeline_owner', 'bargeline_loader', 'bargeline_reporter'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
    END LOOP;
    -- Everybody may connect and make temporary tables until this is taken back.
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    -- The loader stages rows in temporary tables.
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO bargeline_loader', current_database());
END
$$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO bargeline_owner;
GRANT USAGE ON SCHEMA public TO bargeline_loader, bargeline_reporter;
