-- Subscriptions, the ledger (waiting apart from history), and the outbox.
-- environment_id leads every key: it is the tenant, and the column to shard by.

-- Subscriptions ------------------------------------------------------------------------------------------------------

CREATE TABLE subscriptions (
    environment_id text NOT NULL,
    webhook_id text NOT NULL,
    name text,
    types text[] NOT NULL,
    card_template_id text,
    action_flow_config_id text,
    url text NOT NULL,
    method text NOT NULL CHECK (method IN ('POST', 'PUT')),
    -- Sealed: JSON, a list of name and value.
    headers bytea NOT NULL,
    status text NOT NULL CHECK (status IN ('active', 'paused', 'disabled')),
    status_reason text,
    status_changed timestamptz NOT NULL DEFAULT now(),
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (environment_id, webhook_id)
);

-- A webhookId is unique over all environments: deliveries' ids are made of it.
CREATE UNIQUE INDEX subscriptions_webhook_id ON subscriptions (webhook_id);
CREATE INDEX subscriptions_paused ON subscriptions (environment_id) WHERE status = 'paused';

-- The newest signs first; one that is being rotated out signs too until its time.
CREATE TABLE subscription_secrets (
    environment_id text NOT NULL,
    webhook_id text NOT NULL,
    secret_id bigint GENERATED ALWAYS AS IDENTITY,
    -- Sealed.
    secret bytea NOT NULL,
    signs_until timestamptz,
    PRIMARY KEY (environment_id, webhook_id, secret_id),
    FOREIGN KEY (environment_id, webhook_id) REFERENCES subscriptions ON DELETE CASCADE
);

CREATE FUNCTION postrider_tell_subscriptions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('postrider_subscriptions', coalesce(NEW.environment_id, OLD.environment_id));
    RETURN NULL;
END
$$;

CREATE TRIGGER postrider_tell AFTER INSERT OR UPDATE OR DELETE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION postrider_tell_subscriptions();
CREATE TRIGGER postrider_tell AFTER INSERT OR UPDATE OR DELETE ON subscription_secrets
    FOR EACH ROW EXECUTE FUNCTION postrider_tell_subscriptions();

-- What waits ---------------------------------------------------------------------------------------------------------

-- No foreign key to subscriptions: a delivery outlives its subscription. Rows come and go all the time, so vacuum must
-- come early, whatever the table's size.
CREATE TABLE deliveries_waiting (
    environment_id text NOT NULL,
    request_id uuid NOT NULL,
    webhook_id text NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    status text NOT NULL CHECK (status IN ('scheduled', 'held')),
    -- The number of the last attempt whose outcome is known.
    attempts integer NOT NULL,
    -- Claims (and a hand-off) since then: counted before the request is made.
    claims integer NOT NULL,
    created timestamptz NOT NULL,
    -- Of a scheduled row: when it is due; while it is leased: the end of the lease.
    due timestamptz,
    lease_id uuid,
    -- Time held doesn't count towards a delivery's age.
    held_since timestamptz,
    held_for interval NOT NULL DEFAULT '0',
    payload_id uuid NOT NULL,
    payload_bytes integer NOT NULL,
    PRIMARY KEY (environment_id, request_id),
    CHECK ((status = 'scheduled') = (due IS NOT NULL)),
    CHECK ((status = 'held') = (held_since IS NOT NULL))
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX deliveries_waiting_of_webhook ON deliveries_waiting (environment_id, webhook_id, due)
    WHERE status = 'scheduled';
CREATE INDEX deliveries_waiting_due ON deliveries_waiting (due) WHERE status = 'scheduled';
CREATE INDEX deliveries_waiting_held ON deliveries_waiting (environment_id, webhook_id, created)
    WHERE status = 'held';
CREATE INDEX deliveries_waiting_payload ON deliveries_waiting (environment_id, payload_id);

-- Stored once for all the deliveries of one event that wait. Not compressed: the same bytes are moved to history.
CREATE TABLE payloads_waiting (
    environment_id text NOT NULL,
    payload_id uuid NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (environment_id, payload_id)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE payloads_waiting ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE attempts_waiting (
    environment_id text NOT NULL,
    request_id uuid NOT NULL,
    attempt integer NOT NULL,
    started timestamptz NOT NULL,
    duration_ms integer NOT NULL,
    outcome text NOT NULL,
    status integer,
    error text,
    response bytea
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
-- No unique key: a late result of a lost lease may have the number of another.
CREATE INDEX attempts_waiting_of_delivery ON attempts_waiting (environment_id, request_id);

-- One row for each subscription of which something waits: when looking is worth it. So a claim costs the same however
-- long a backlog is, and no subscription's backlog stands before another's.
CREATE TABLE subscription_due (
    environment_id text NOT NULL,
    webhook_id text NOT NULL,
    -- Not after the earliest due time of its scheduled rows.
    next_due timestamptz NOT NULL DEFAULT 'infinity',
    -- When the sweep must look: something is held, or its status changed.
    next_sweep timestamptz NOT NULL DEFAULT 'infinity',
    PRIMARY KEY (environment_id, webhook_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);
CREATE INDEX subscription_due_next ON subscription_due (next_due) WHERE next_due < 'infinity';
CREATE INDEX subscription_due_sweep ON subscription_due (next_sweep) WHERE next_sweep < 'infinity';

-- History, by the day (UTC) of settlement: what is past keeping goes by the partition ----------------------------------

CREATE TABLE deliveries (
    environment_id text NOT NULL,
    request_id uuid NOT NULL,
    webhook_id text NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    status text NOT NULL CHECK (status IN ('delivered', 'dead', 'cancelled')),
    reason text,
    attempts integer NOT NULL,
    created timestamptz NOT NULL,
    settled timestamptz NOT NULL,
    payload_id uuid NOT NULL,
    settled_on date NOT NULL,
    PRIMARY KEY (environment_id, request_id, settled_on)
) PARTITION BY RANGE (settled_on);
CREATE INDEX deliveries_of_webhook ON deliveries (environment_id, webhook_id, settled DESC);

CREATE TABLE attempts (
    environment_id text NOT NULL,
    request_id uuid NOT NULL,
    attempt integer NOT NULL,
    started timestamptz NOT NULL,
    duration_ms integer NOT NULL,
    outcome text NOT NULL,
    status integer,
    error text,
    response bytea,
    settled_on date NOT NULL
) PARTITION BY RANGE (settled_on);
CREATE INDEX attempts_of_delivery ON attempts (environment_id, request_id);

CREATE TABLE payloads (
    environment_id text NOT NULL,
    payload_id uuid NOT NULL,
    settled_on date NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (environment_id, payload_id, settled_on)
) PARTITION BY RANGE (settled_on);
ALTER TABLE payloads ALTER COLUMN data SET STORAGE EXTERNAL;

-- What is to be published in consequence of a settlement, written in its transaction and removed after the confirm -------

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('delivery_dead', 'notice')),
    environment_id text NOT NULL,
    webhook_id text NOT NULL,
    reason text NOT NULL,
    not_before timestamptz NOT NULL DEFAULT now(),
    -- delivery_dead
    request_id uuid,
    attempts integer,
    settled_on date,
    payload_id uuid,
    -- notice
    routing_key text,
    at timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX outbox_next ON outbox (not_before, id);
CREATE INDEX outbox_settled_on ON outbox (settled_on) WHERE settled_on IS NOT NULL;
