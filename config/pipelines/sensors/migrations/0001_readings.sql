CREATE TABLE readings (
    event_id uuid PRIMARY KEY,
    occurred_at timestamptz NOT NULL,
    sensor_id text NOT NULL,
    temp double precision NOT NULL,
    humidity double precision NOT NULL
);

CREATE TABLE sensor_minutes (
    window_start timestamptz NOT NULL,
    sensor_id text NOT NULL,
    readings bigint NOT NULL,
    temp numeric,
    temp_sum numeric,
    temp_count bigint,
    temp_min numeric,
    temp_max numeric,
    humidity numeric,
    humidity_sum numeric,
    humidity_count bigint,
    humidity_min numeric,
    humidity_max numeric,
    PRIMARY KEY (window_start, sensor_id)
);
