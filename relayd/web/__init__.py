"""The HTTP server: metrics, health, and what people look at.  It shows, it never decides."""
