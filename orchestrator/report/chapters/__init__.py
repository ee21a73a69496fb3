"""Draw up the chapters of a report that only some storages have: exported files, searches, families, int8 rounds."""
