"""The HTTP interface: reads published versions and answers from memory; it counts nothing itself."""
