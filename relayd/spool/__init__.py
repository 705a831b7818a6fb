"""Stage 2, the spool: bodies on disk, everything else as rows.  Nothing that was accepted is lost."""
