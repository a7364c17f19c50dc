"""A whole run: configuration, the plan, and what a task is."""
