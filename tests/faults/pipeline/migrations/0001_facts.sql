-- No constraint on `no`: a number that lands twice has to show.
CREATE TABLE facts (
    event_id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    no bigint NOT NULL,
    kind text NOT NULL,
    grp text NOT NULL,
    amount bigint NOT NULL CHECK (amount >= 0)
);

CREATE TABLE echoes (
    event_id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    no bigint NOT NULL,
    grp text NOT NULL,
    amount bigint NOT NULL
);

CREATE TABLE facts_by_group (
    window_start timestamptz NOT NULL,
    grp text NOT NULL,
    total numeric NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY (window_start, grp)
);

CREATE TABLE everything_by_day (
    window_start timestamptz PRIMARY KEY,
    total numeric NOT NULL,
    events bigint NOT NULL
);

-- A loader that is done in a millisecond is never struck in mid-transaction: this keeps it there.
CREATE TABLE pace (seconds float8 NOT NULL);
INSERT INTO pace VALUES (0.12);
CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep((SELECT seconds FROM pace)); RETURN NULL; END $$;
CREATE TRIGGER linger AFTER INSERT ON facts FOR EACH STATEMENT EXECUTE FUNCTION linger();
