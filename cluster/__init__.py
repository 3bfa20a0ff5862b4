"""Ray, and nothing of biology: the pool that evaluates under deadlines, the session, the result store."""
