-- Tests that somebody asked for: one attempt each, apart from the ledger. Kept for an hour.
CREATE TABLE test_deliveries (
    environment_id text NOT NULL,
    request_id uuid NOT NULL,
    webhook_id text NOT NULL,
    data bytea NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    -- Until then a worker may take it; whoever asked waits no longer than that for the taking.
    takeable_until timestamptz NOT NULL,
    taken timestamptz,
    ended timestamptz,
    outcome text,
    status integer,
    duration_ms integer,
    response bytea,
    PRIMARY KEY (environment_id, request_id)
);
CREATE INDEX test_deliveries_created ON test_deliveries (created);
CREATE INDEX test_deliveries_takeable ON test_deliveries (takeable_until) WHERE taken IS NULL;
