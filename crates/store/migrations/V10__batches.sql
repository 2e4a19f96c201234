-- Events that are to be put together into batches. They stand apart from the deliveries that wait: an event is no
-- delivery yet, and a batch that is put together waits, is claimed and is settled like any other delivery.
CREATE TABLE batch_members_waiting (
    environment_id text NOT NULL,
    -- That of a delivery of this event alone.
    request_id uuid NOT NULL,
    webhook_id text NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    created timestamptz NOT NULL,
    -- In payloads_waiting, never shared with a delivery.
    payload_id uuid NOT NULL,
    payload_bytes integer NOT NULL,
    PRIMARY KEY (environment_id, request_id)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX batch_members_waiting_oldest
    ON batch_members_waiting (environment_id, webhook_id, created, request_id) INCLUDE (payload_bytes);
CREATE INDEX batch_members_waiting_payload ON batch_members_waiting (environment_id, payload_id);

-- One row for each subscription that has such events: when looking is worth it. Whoever adds events or takes them holds
-- its lock.
CREATE TABLE batches_open (
    environment_id text NOT NULL,
    webhook_id text NOT NULL,
    next_look timestamptz NOT NULL,
    PRIMARY KEY (environment_id, webhook_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);
CREATE INDEX batches_open_next ON batches_open (next_look) WHERE next_look < 'infinity';

-- In which batch an event went, by the day (UTC) on which the batch was put together.
CREATE TABLE batch_members (
    environment_id text NOT NULL,
    request_id uuid NOT NULL,
    batch_request_id uuid NOT NULL,
    batched_on date NOT NULL,
    PRIMARY KEY (environment_id, request_id, batched_on)
) PARTITION BY RANGE (batched_on);
