"""Imported by each Ray worker of a Ray that a supervisor started, before anything else of ours.

That Ray is started with the signals of a service manager blocked, so that a SIGTERM to all processes of a unit does not
end it under the bodies. A Ray worker inherits that, and the processes that bodies start would: they could not be
terminated. So it ends here.
"""

import signal

signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGHUP})
