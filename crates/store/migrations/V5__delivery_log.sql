-- The log of a subscription, newest first, also by status: what is rare among ten million rows is found without reading them.
DROP INDEX deliveries_of_webhook;
CREATE INDEX deliveries_log ON deliveries (environment_id, webhook_id, status, created DESC, request_id DESC);
CREATE INDEX deliveries_waiting_log
    ON deliveries_waiting (environment_id, webhook_id, status, created DESC, request_id DESC);
