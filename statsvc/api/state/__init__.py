"""What a server process keeps in memory: the catalog snapshot, tables, finished answers, job events."""
