"""The audit: which tables are needed, one pass for all metrics, attacks with controls, and what may be concluded."""
