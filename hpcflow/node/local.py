"""The scheduler of the `local` cluster: job arrays as processes of this machine, never more than it has cores and memory for.

Every command is ``<python> <worker.pyz> local VERB ROOT`` with one JSON object on stdin and one on stdout. ROOT is the
cluster's directory on this machine; all state is below ``ROOT/local``. Exit codes: 0 the answer is on stdout; 3 surely
refused, stdout is ``{"error": sentence, "retry_later": bool}``; 64 the request itself is wrong (sentence on stderr);
anything else is no answer. Times are seconds since the epoch, as floats.

``limits`` (stdin is not read) answers what this machine has::

    {"host": "node1", "version": "1", "cores": 8, "memory_mib": 31998, "gpus": 0}

``submit`` starts a detached supervisor and answers at once; the same token again answers with the first one's id::

    {"token": "relax-01J...", "width": 4, "command": ["/usr/bin/python3", "-I", ".../worker.pyz", "bag", DIR, KEY],
     "cpus": 1, "memory_mib": 512 | null, "walltime_s": 3600, "path": DIR, "prologue": "module load x\\n",
     "grace_s": 30}
    -> {"job_id": "17", "new": true}

  ``command`` runs once for each index below ``width`` with HPCFLOW_JOB, HPCFLOW_INDEX and HPCFLOW_RESTART set, after the
  shell lines of ``prologue``, in ``path``; its output goes to ``path/logs/<job id>_<index>.log``. ``cpus`` and
  ``memory_mib`` (per array task; null reserves none) are taken from what the machine has; arrays are served in the order of
  arrival. At ``walltime_s`` the array task gets SIGTERM, and SIGKILL ``grace_s`` later (30 when left out). ``prologue`` and
  ``grace_s`` may be left out. Refused: more cores or memory for one array task than the machine has.

``query`` answers for each token it is asked about::

    {"tokens": ["relax-01J...", "fit-01J..."]}
    -> {"arrays": {"relax-01J...": {"job_id": "17", "host": "node1", "tasks": [TASK, ...]}, "fit-01J...": null},
        "problems": []}

  ``null``: no array of that name was ever submitted here, and that is sure. A token that is not in ``arrays`` is unknown (its
  supervisor runs on another host that shares ROOT), and ``problems`` has a sentence about it. TASK, one for each index in order::

    {"index": 0, "phase": "pending" | "running" | "ended", "cause": null | "done" | "failed" | "cancelled" | "timeout",
     "raw": "exit code 1", "exit_code": 1 | null, "signal": 9 | null, "cpu_s": 12.5 | null, "max_rss_kib": 48312 | null,
     "started_at": 1790000000.25 | null, "ended_at": 1790000003.5 | null}

  ``cause`` is null unless ended. ``cpu_s`` is user and system time of the array task and all that it waited for. A supervisor
  that was killed takes its workers with it; what had not ended is then ended, failed, "supervisor gone".

``cancel`` answers at once; the array tasks end within ``grace_s``::

    {"tokens": ["relax-01J..."], "pending_only": false}
    -> {"signalled": 1}

  The number of arrays that were still alive. Unknown and ended arrays are no error.
"""
