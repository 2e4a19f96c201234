-- What is held too long is found without reading what is kept.
CREATE INDEX deliveries_waiting_held_since ON deliveries_waiting (environment_id, webhook_id, held_since)
    WHERE status = 'held';
