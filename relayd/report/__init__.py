"""Beside the stages: daily reports on TLS to the domains that ask for them (TLSRPT, RFC 8460)."""
