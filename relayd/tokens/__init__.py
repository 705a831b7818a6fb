"""Tokens of OAuth 2.0 (RFC 6749) for smart hosts: got before they are needed, shared by all relayers."""
