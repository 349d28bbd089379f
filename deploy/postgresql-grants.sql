-- Rights on the tables, for the roles of postgresql-roles.sql. Run after every `bargeline migrate` that made a
-- table, as bargeline_owner. The second half names the tables of the pipeline clickstream: put yours there.
-- `bargeline doctor` says what is missing.

-- The core's tables.
GRANT SELECT, INSERT, UPDATE, DELETE ON load_ledger TO bargeline_loader;
GRANT SELECT, INSERT, UPDATE ON load_totals, epochs TO bargeline_loader;
GRANT SELECT ON bargeline_migrations TO bargeline_loader;
GRANT SELECT ON load_ledger, load_totals, epochs, bargeline_migrations TO bargeline_reporter;

-- Each [[table]]: COPY needs INSERT; CREATE TEMPORARY TABLE … LIKE and RETURNING need SELECT; mode "upsert" UPDATE as well.
GRANT SELECT, INSERT ON clicks TO bargeline_loader;

-- Each [[rollup]]: INSERT … ON CONFLICT DO UPDATE.
GRANT SELECT, INSERT, UPDATE ON mobile_users_by_timezone TO bargeline_loader;

-- What reports read.
GRANT SELECT ON clicks, mobile_users_by_timezone TO bargeline_reporter;
