-- The span that a delivery follows from (W3C traceparent), where its message had one: retries go on in its trace.
ALTER TABLE deliveries_waiting ADD COLUMN trace_parent text;
