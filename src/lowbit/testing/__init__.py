"""Contracts as checks that run on every member, also on a user's own."""
