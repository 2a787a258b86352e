"""The search for a plan, as a person runs it: a config in, a front of plans and a report out."""
