"""Reports: how TLS goes, counted by domain and day, and told to the domains that ask for it (TLSRPT, RFC 8460)."""
