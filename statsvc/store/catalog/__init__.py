"""The SQL catalog: datasets, versions, jobs, tags, triggers and tokens."""
