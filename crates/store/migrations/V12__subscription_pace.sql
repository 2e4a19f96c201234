-- How far each rate-limited subscription has come: a claim that takes attempts of it moves its next turn on. Apart from
-- subscriptions, whose every change is told to all workers, and from subscription_due, whose rows come and go. A row
-- counts for the limit that it was written under; without one a subscription may begin at once.
CREATE TABLE subscription_pace (
    environment_id text NOT NULL,
    webhook_id text NOT NULL,
    per_second integer NOT NULL,
    -- The next attempt begins then at the earliest. Not indexed: so an update touches no index.
    next_turn timestamptz NOT NULL,
    PRIMARY KEY (environment_id, webhook_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);

-- A backlog of one subscription may be nearly all of this table, and have been due for long. Told the truth about that, the
-- planner would look for the few rows of another one along the index of all due times, past the whole backlog. Told
-- that each has few, it looks by key.
ALTER TABLE deliveries_waiting ALTER COLUMN webhook_id SET (n_distinct = -1);
ANALYZE deliveries_waiting;
