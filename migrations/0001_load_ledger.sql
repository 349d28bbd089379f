-- One row for each stream entry whose events were committed, with the figures to settle it by.
-- A crash between COMMIT and settlement, a zombie or a race finds the row and does not load again.
CREATE TABLE load_ledger (
    stream text NOT NULL,
    entry_ms bigint NOT NULL,
    entry_seq bigint NOT NULL,
    digest bytea NOT NULL,
    events bigint NOT NULL,
    loaded bigint NOT NULL,
    duplicates bigint NOT NULL,
    unrouted bigint NOT NULL,
    dead jsonb NOT NULL DEFAULT '[]',
    committed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, entry_ms, entry_seq, digest)
);

-- Rows are pruned below the oldest entry that Redis can still deliver; what they counted stays here.
CREATE TABLE load_totals (
    stream text PRIMARY KEY,
    entries bigint NOT NULL,
    loaded bigint NOT NULL
);
