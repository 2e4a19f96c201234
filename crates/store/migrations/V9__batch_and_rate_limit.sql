-- How a subscription's events are put into batches, and how many of its requests begin per second; null: not at all.
ALTER TABLE subscriptions
    ADD COLUMN batch_events_max integer,
    ADD COLUMN batch_wait_ms_max integer,
    ADD COLUMN batch_bytes_max integer,
    ADD COLUMN rate_per_second_max integer;
