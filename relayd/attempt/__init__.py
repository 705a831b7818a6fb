"""Stage 6, attempt: outcomes become changes of the queue: done, retry at, bounce."""
