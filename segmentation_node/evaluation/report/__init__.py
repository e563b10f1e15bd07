"""Results for people (tables, a page) and for machines (JSON files)."""
