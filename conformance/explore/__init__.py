"""Bounded exhaustive search: all schedules, and all small programs."""
