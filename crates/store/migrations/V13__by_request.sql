-- History is looked up and written by the requestId, which alone tells nearly all rows apart: as the first column it is
-- the only one that a search has to compare, and of attempts it is enough.
CREATE UNIQUE INDEX IF NOT EXISTS deliveries_by_request ON deliveries (request_id, environment_id, settled_on);
CREATE INDEX IF NOT EXISTS attempts_by_request ON attempts (request_id);
