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
