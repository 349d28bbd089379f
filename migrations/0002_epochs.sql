-- The janitor's copy of each epoch's figures, taken every second: what can still be said of an epoch that ended
-- because Redis was flushed, rewound or lost writes in a failover.
CREATE TABLE epochs (
    pipeline text NOT NULL,
    epoch text NOT NULL,
    figures jsonb NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    PRIMARY KEY (pipeline, epoch)
);
