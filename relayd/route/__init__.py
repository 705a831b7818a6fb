"""Stage 4, route: a destination becomes a site, or a reason why it has none."""
