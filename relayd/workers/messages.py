"""What the daemon and a worker tell each other, each message a tuple that begins with its name.

The daemon numbers its runs, a worker its reports and its questions.  A run is answered by exactly one ENDED or RAISED,
a report by one RECORDED or REFUSED, a LOOK_UP by one FOUND or NOT_FOUND, an ASK_TOKEN by one TOKEN or NOT_FOUND, an
ASK_PERMIT by one PERMIT or NOT_FOUND, a PING by one PONG.
"""

from __future__ import annotations

# from the daemon
START = "start"  # a pickled worker.Setup
SETTINGS = "settings"  # pickled RelaySettings, for relayers from now on
WITHDRAWN = "withdrawn"  # all ids that are held or removed while they are claimed
RUN = "run"  # run, site, deliveries, whether it has to ask before it connects: let a relayer send these
FINISH = "finish"  # run: start nothing more, settle what is under way
ABORT = "abort"  # run: reset its connection
RECORDED = "recorded"  # report: it is durable
REFUSED = "refused"  # report, why: it could not be recorded
FOUND = "found"  # question, targets
TOKEN = "token"  # question, the token or why there is none
PERMIT = "permit"  # question: it may connect
NOT_FOUND = "not found"  # question, why: our own trouble
PING = "ping"  # number
STOP = "stop"  # see the last connections off, and end

# from a worker
READY = "ready"
UNABLE = "unable"  # why it cannot start
SETTLED = "settled"  # report, run, place of the delivery in it, attempt
LOOK_UP = "look up"  # question, host, site, destinations
ASK_TOKEN = "ask token"  # question, key of the site, the token that was rejected or an empty text
TLS = "tls"  # how TLS went on a connection
FIGURES = "figures"  # what a run measured
ENDED = "ended"  # run, what it left
RAISED = "raised"  # run, the exception; what was not settled is undone
ASK_PERMIT = "ask permit"  # question, run: it is to connect
PONG = "pong"  # number, for how long each run has not stirred: what was sent before its PING is in force
COMPLAINT = "complaint"  # logger, level, text: what a library logged
