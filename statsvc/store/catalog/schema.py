"""The tables of a new catalog on SQLite; the migrations create the same, on PostgreSQL with these comments.

Times are seconds since 1970 by the database's clock.
"""

from __future__ import annotations

STATEMENTS = (
    # A deleted dataset keeps its row, so that its version numbers are never reused.
    """
    CREATE TABLE datasets (
        uid VARCHAR NOT NULL,
        name VARCHAR NOT NULL,
        source VARCHAR,  -- folder of the label maps; NULL for imported counts
        pattern VARCHAR,
        configuration JSON NOT NULL,
        revision INTEGER NOT NULL,  -- increases with every change of this row
        next_number INTEGER NOT NULL,
        current_number INTEGER,
        created_at DOUBLE NOT NULL,
        deleted_at DOUBLE,
        keep INTEGER DEFAULT '20' NOT NULL,  -- number of newest versions that keep their rows
        CONSTRAINT pk_datasets PRIMARY KEY (uid)
    )
    """,
    "CREATE UNIQUE INDEX uq_datasets_live_name ON datasets (name) WHERE deleted_at IS NULL",
    """
    CREATE TABLE jobs (
        id VARCHAR NOT NULL,
        dataset_uid VARCHAR NOT NULL,
        state VARCHAR NOT NULL,
        "full" BOOLEAN NOT NULL,  -- count every sample again
        max_removed DOUBLE NOT NULL,  -- share of samples it may remove
        attempt INTEGER NOT NULL,
        released INTEGER NOT NULL,  -- attempts ended by an orderly stop
        owner VARCHAR,
        lease_until DOUBLE,
        group_uri VARCHAR,  -- reserved before the first byte is written
        progress JSON NOT NULL,
        error VARCHAR,
        version_number INTEGER,
        created_at DOUBLE NOT NULL,
        started_at DOUBLE,
        finished_at DOUBLE,
        named INTEGER,  -- number of changed paths it checks; NULL: it lists the source
        request_id VARCHAR,  -- X-Request-ID of the request that queued it
        estimate JSON,  -- size of the sample to count; NULL: all samples
        CONSTRAINT pk_jobs PRIMARY KEY (id),
        CONSTRAINT ck_jobs_state CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
        CONSTRAINT fk_jobs_dataset_uid FOREIGN KEY (dataset_uid) REFERENCES datasets (uid)
    )
    """,
    "CREATE INDEX ix_jobs_created_at ON jobs (created_at)",
    "CREATE INDEX ix_jobs_dataset_uid_created_at ON jobs (dataset_uid, created_at)",
    "CREATE INDEX ix_jobs_state_created_at ON jobs (state, created_at)",
    "CREATE UNIQUE INDEX uq_jobs_one_queued ON jobs (dataset_uid) WHERE state = 'queued'",
    "CREATE UNIQUE INDEX uq_jobs_one_running ON jobs (dataset_uid) WHERE state = 'running'",
    """
    CREATE TABLE versions (
        id INTEGER NOT NULL,
        dataset_uid VARCHAR NOT NULL,
        number INTEGER NOT NULL,
        job_id VARCHAR,
        kind VARCHAR NOT NULL,  -- scan, configuration or import
        group_uri VARCHAR NOT NULL,  -- the version's own group
        arrays_uri VARCHAR NOT NULL,  -- the group that contains its arrays
        configuration JSON NOT NULL,
        reader VARCHAR NOT NULL,
        digests JSON NOT NULL,  -- array name -> xxh3_128 of its values
        samples INTEGER,
        failed INTEGER NOT NULL,
        pixels BIGINT NOT NULL,
        created_at DOUBLE NOT NULL,
        expired_at DOUBLE,  -- since when it answers only from its aggregates
        rows_removed_at DOUBLE,
        CONSTRAINT pk_versions PRIMARY KEY (id),
        CONSTRAINT fk_versions_dataset_uid FOREIGN KEY (dataset_uid) REFERENCES datasets (uid),
        CONSTRAINT fk_versions_job_id FOREIGN KEY (job_id) REFERENCES jobs (id),
        CONSTRAINT uq_versions_dataset_uid_number UNIQUE (dataset_uid, number),
        CONSTRAINT uq_versions_job_id UNIQUE (job_id)
    )
    """,
    """
    CREATE TABLE tags (
        dataset_uid VARCHAR NOT NULL,
        tag VARCHAR NOT NULL,
        number INTEGER NOT NULL,
        CONSTRAINT pk_tags PRIMARY KEY (dataset_uid, tag),
        CONSTRAINT fk_tags_dataset_uid FOREIGN KEY (dataset_uid) REFERENCES datasets (uid),
        CONSTRAINT fk_tags_dataset_uid_number
            FOREIGN KEY (dataset_uid, number) REFERENCES versions (dataset_uid, number)
    )
    """,
    """
    CREATE TABLE changed_paths (
        job_id VARCHAR NOT NULL,
        path VARCHAR NOT NULL,
        CONSTRAINT pk_changed_paths PRIMARY KEY (job_id, path),
        CONSTRAINT fk_changed_paths_job_id FOREIGN KEY (job_id) REFERENCES jobs (id)
    )
    """,
    """
    CREATE TABLE triggers (
        dataset_uid VARCHAR NOT NULL,
        every DOUBLE,  -- seconds between scheduled scans
        watch BOOLEAN NOT NULL,  -- scan when something in the source changes
        due_at DOUBLE,  -- when the next scheduled scan is due
        CONSTRAINT pk_triggers PRIMARY KEY (dataset_uid),
        CONSTRAINT fk_triggers_dataset_uid FOREIGN KEY (dataset_uid) REFERENCES datasets (uid)
    )
    """,
    """
    CREATE TABLE idempotency_keys (
        "key" VARCHAR NOT NULL,
        request VARCHAR NOT NULL,  -- xxh3_128 of the request that used the key
        job_id VARCHAR NOT NULL,
        created_at DOUBLE NOT NULL,
        CONSTRAINT pk_idempotency_keys PRIMARY KEY ("key"),
        CONSTRAINT fk_idempotency_keys_job_id FOREIGN KEY (job_id) REFERENCES jobs (id)
    )
    """,
    "CREATE INDEX ix_idempotency_keys_created_at ON idempotency_keys (created_at)",
    """
    CREATE TABLE tokens (
        id VARCHAR NOT NULL,
        name VARCHAR NOT NULL,  -- label shown in the audit log
        scope VARCHAR NOT NULL,
        digest VARCHAR NOT NULL,  -- SHA-256 of the secret, which is not stored
        created_at DOUBLE NOT NULL,
        revoked_at DOUBLE,
        CONSTRAINT pk_tokens PRIMARY KEY (id),
        CONSTRAINT ck_tokens_scope CHECK (scope IN ('read', 'write', 'admin'))
    )
    """,
    """
    CREATE TABLE runners (
        owner VARCHAR NOT NULL,  -- identity of the process
        started_at DOUBLE NOT NULL,
        seen_at DOUBLE NOT NULL,  -- when it last reported that it runs
        CONSTRAINT pk_runners PRIMARY KEY (owner)
    )
    """,
    """
    CREATE TABLE settings (
        name VARCHAR NOT NULL,
        value INTEGER NOT NULL,
        CONSTRAINT pk_settings PRIMARY KEY (name)
    )
    """,
    """
    CREATE TABLE schema_versions (
        revision VARCHAR NOT NULL,
        -- the oldest schema whose releases can use this one, because later changes only add
        compatible_from VARCHAR NOT NULL,
        CONSTRAINT pk_schema_versions PRIMARY KEY (revision)
    )
    """,
    """
    CREATE TABLE alembic_version (
        version_num VARCHAR(32) NOT NULL,
        CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
    )
    """,
)
"""Statements that create the tables and indexes in an empty database."""
