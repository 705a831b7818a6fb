"""Stage 5, relay: one connection, a batch of deliveries, an outcome for every recipient."""
