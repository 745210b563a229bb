"""Tokens, passwords, envelope encryption, redaction, rate limits."""
