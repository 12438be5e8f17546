"""The branch that an attempt's work is for: the rig's, or a feature branch that other work was merged into already."""

from gastown.agent.failures import no_target
from gastown.agent.git import succeeds
from gastown.agent.mirror import Mirror
from gastown.agent.protocol import Assignment


def target_of(mirror: Mirror, given: Assignment) -> tuple[str, str]:
    """(branch, its head). The mirror is up to date. Raises Failed, and GitError when what was merged is out of reach.

    A feature branch that somebody deleted or moved back still has what was recorded when it was last merged into.
    """
    if given.feature is None or given.feature_sha is None:
        target = mirror.target(given.branch)
        if target is None:
            raise no_target(mirror, given.branch)
        return given.branch, target
    recorded, head = given.feature_sha, mirror.target(given.feature)
    if mirror.resolve(recorded) is None:
        mirror.fetch(f"{recorded}:refs/remotes/gastown/sha/{recorded}")
    if head is not None and succeeds("merge-base", "--is-ancestor", recorded, head, cwd=mirror.path):
        return given.feature, head
    return given.feature, recorded
