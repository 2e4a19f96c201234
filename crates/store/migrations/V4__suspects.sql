-- Rows whose claims came to no outcome twice: one that kills the process is among them. A claim takes them one at a time,
-- and must find them without reading the backlog.
CREATE INDEX deliveries_waiting_suspect ON deliveries_waiting (environment_id, webhook_id, due)
    WHERE status = 'scheduled' AND claims >= 2;
