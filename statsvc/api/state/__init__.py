"""What a server process keeps in memory: catalog snapshot, tables, rendered responses, job events."""
