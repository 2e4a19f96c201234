-- What V13's indexes stand for. An `ON CONFLICT` names columns, in whatever order, and finds the new one by them.
ALTER TABLE deliveries DROP CONSTRAINT deliveries_pkey;
DROP INDEX attempts_of_delivery;
