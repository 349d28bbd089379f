CREATE TABLE clicks (
    event_id uuid PRIMARY KEY,
    occurred_at timestamptz NOT NULL,
    click_id text NOT NULL,
    os_name text NOT NULL,
    os_timezone text NOT NULL,
    device_type text NOT NULL,
    device_is_mobile boolean NOT NULL,
    user_domain_id text NOT NULL,
    payload jsonb NOT NULL
);

CREATE TABLE mobile_users_by_timezone (
    window_start timestamptz NOT NULL,
    os_timezone text NOT NULL,
    num_mobile_users bigint NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY (window_start, os_timezone)
);
