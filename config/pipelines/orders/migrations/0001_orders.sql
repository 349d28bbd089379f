CREATE TABLE orders (
    order_id bigint PRIMARY KEY,
    event_id uuid NOT NULL,
    updated_at timestamptz NOT NULL,
    customer_id bigint,
    email text,
    state text NOT NULL,
    financial_status text,
    currency text NOT NULL,
    total_price numeric NOT NULL,
    item_count bigint NOT NULL,
    average_item_price numeric,
    created_at timestamptz,
    cancelled_at timestamptz,
    payload jsonb NOT NULL
);

CREATE TABLE order_events (
    event_id uuid PRIMARY KEY,
    occurred_at timestamptz NOT NULL,
    order_id bigint NOT NULL,
    state text NOT NULL,
    financial_status text,
    total_price numeric NOT NULL
);

CREATE INDEX order_events_of_order ON order_events (order_id, occurred_at);

CREATE TABLE order_states_by_hour (
    window_start timestamptz NOT NULL,
    state text NOT NULL,
    events bigint NOT NULL,
    items bigint NOT NULL,
    PRIMARY KEY (window_start, state)
);
