-- Who may use the API. The secret is 256 random bits, so its SHA-256 tells nobody anything.
CREATE TABLE credentials (
    environment_id text NOT NULL,
    client_id text NOT NULL,
    role text NOT NULL CHECK (role IN ('auth', 'workbench', 'events')),
    secret_hash bytea NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (environment_id, client_id)
);

-- The token endpoint knows the client alone.
CREATE UNIQUE INDEX credentials_client_id ON credentials (client_id);
