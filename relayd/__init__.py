"""relayd relays outgoing mail.  The way of a message, in the order of the packages:

    mail         the nouns: address, envelope, recipient, reply, outcome, route
    submission   1  a file in the drop directory becomes a message
    spool        2  its body goes to disk, its recipients become rows
    schedule     3  which sites may start a relayer now
    route        4  a destination becomes a site: hosts in order, TLS policy
    relay        5  one connection, at most max_messages_per_connection deliveries
    attempt      6  replies become outcomes, outcomes one commit: done, retry or bounce

`manager.py` drives them, `daemon.py` plugs them together, `observe/` watches, `cli/` is the command line;
`workers/` has relayers in processes of their own.
"""

__version__ = "0.1.0"
