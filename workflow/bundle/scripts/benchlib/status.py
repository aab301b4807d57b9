"""What became of points and runs, and how a worker tells its supervisor."""

import errno

# In a worker's environment: the name of the supervisor's attempt.
ATTEMPT = "ROOFBENCH_ATTEMPT"
# Exit codes of a worker that its supervisor understands.
EXIT_RESTART = 75
EXIT_BUSY = 73
EXIT_DISK = 74

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
NO_PLACE = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG)


def overall(records):
    """(status, reason) of a run from its points' records (not applicable ones left out)."""
    bad = [record for record in records if record["status"] != "ok"]
    if not records:
        return "ok", "no point of this sweep applies"
    if not bad:
        return "ok", ""
    reasons = {}
    for record in bad:
        text = f"{record['status']}: {record.get('reason') or 'no reason'}"
        reasons[text] = reasons.get(text, 0) + 1
    most = max(reasons, key=reasons.get)
    reason = f"{len(bad)} of {len(records)} points not measured; {most} ({reasons[most]})"
    if len(bad) < len(records):
        return "partial", reason
    kinds = [record["status"] for record in bad]
    if kinds.count("unavailable") == len(kinds):
        return "unavailable", bad[0].get("reason") or ""
    return ("timeout" if kinds.count("timeout") * 2 > len(kinds) else "failed"), reason


def classify(error):
    """(status, reason in one line) of an exception that a kernel, or making its inputs, raised."""
    text = " ".join(str(error).split()) or type(error).__name__
    named = type(error).__name__ in ("OutOfMemoryError", "MemoryError")
    if named or "out of memory" in text.lower():
        return "oom", text[:400]
    return "failed", f"{type(error).__name__}: {text[:400]}"


def no_room(error, place):
    """What to say where results cannot be written. Raises an error of another kind again."""
    if error.errno in NO_PLACE:
        return f"{error.filename or place}: cannot be written: {error.strerror}"
    if error.errno not in NO_ROOM:
        raise error
    return f"{error.filename or place}: {error.strerror}. What was measured is in the journal: make room and run again"
