"""The sendmail command: what programs call to send mail becomes a file in the drop directory."""
