-- Deliveries that a person sends again. All columns are nullable or have defaults, so that the version before this one
-- can go on writing.
ALTER TABLE deliveries_waiting
    -- Attempts that don't count for the schedule: those before the last redelivery, and those made by hand.
    ADD COLUMN attempts_before integer NOT NULL DEFAULT 0,
    -- What the schedule's age is counted from; where it is null, from `created`.
    ADD COLUMN schedule_began timestamptz,
    -- The next attempt is made by hand: 'extra' beside the schedule, 'resend' of what history has as delivered.
    ADD COLUMN by_hand text CHECK (by_hand IN ('extra', 'resend')),
    -- When the schedule goes on after an 'extra' attempt.
    ADD COLUMN then_due timestamptz;
