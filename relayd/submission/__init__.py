"""Stage 1, submission: a file in the drop directory becomes a message with a queue id."""
