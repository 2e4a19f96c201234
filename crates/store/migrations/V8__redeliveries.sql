-- What died in a span and is to be sent again: brought back in portions by whichever worker comes, until it is through.
CREATE TABLE redeliveries (
    environment_id text NOT NULL,
    redelivery_id uuid NOT NULL,
    webhook_id text NOT NULL,
    -- Deaths before this; never later than `created`, so that what dies again isn't met again.
    until timestamptz NOT NULL,
    accepted bigint NOT NULL,
    redelivered bigint NOT NULL DEFAULT 0,
    created timestamptz NOT NULL DEFAULT now(),
    -- Where it goes on: after this death.
    last_settled timestamptz NOT NULL,
    last_request_id uuid NOT NULL,
    next_portion timestamptz NOT NULL DEFAULT now(),
    ended timestamptz,
    PRIMARY KEY (environment_id, redelivery_id)
);
CREATE INDEX redeliveries_next ON redeliveries (next_portion) WHERE ended IS NULL;
CREATE INDEX redeliveries_ended ON redeliveries (ended) WHERE ended IS NOT NULL;

-- The dead of a subscription in the order of their deaths: few among many.
CREATE INDEX deliveries_deaths ON deliveries (environment_id, webhook_id, settled, request_id) WHERE status = 'dead';
