"""The tree of errors. Each answers its caller's one question: would trying again help?

GastownError
├── RequestError                  the request has to change
│   ├── UsageError                it makes no sense as it stands
│   ├── NotFound                  it names something that does not exist
│   └── Refused                   it makes sense, but not in the present state
├── TemporaryError                the same again may work in a moment
│   ├── DatabaseUnavailable
│   ├── BrokerUnavailable
│   ├── RuntimeUnavailable
│   ├── RepositoryUnavailable
│   └── StackUnavailable
└── PermanentError                the same again fails again
    ├── StartRefused
    │   └── StartMisconfigured
    ├── GitFailed
    ├── SetupFailed
    └── SchemaTooNew
"""


class GastownError(Exception):
    """Says what happened and why (`str`), and what to do next (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class RequestError(GastownError):
    exit_code = 2


class UsageError(RequestError):
    pass


class NotFound(RequestError):
    exit_code = 3

    def __init__(self, kind: str, name: object, *, hint: str = "") -> None:
        super().__init__(f"there is no {kind} {name}", hint=hint)
        self.kind, self.name = kind, name


class Refused(RequestError):
    exit_code = 1


class TemporaryError(GastownError):
    exit_code = 4


class DatabaseUnavailable(TemporaryError):
    pass


class BrokerUnavailable(TemporaryError):
    pass


class RuntimeUnavailable(TemporaryError):
    """The runtime gave no answer: whether the attempt is there is not known."""


class RepositoryUnavailable(TemporaryError):
    pass


class StackUnavailable(TemporaryError):
    pass


class PermanentError(GastownError):
    pass


class StartRefused(PermanentError):
    """The runtime can prove that nothing was started."""


class StartMisconfigured(StartRefused):
    """Nor will anything start, until a person has put the set-up right: an image, a network, a mount."""


class GitFailed(PermanentError):
    """A git command failed in a way that the same command will repeat."""

    def __init__(self, command: str, output: str) -> None:
        super().__init__(f"git {command} failed: {output.strip() or 'no output'}")
        self.command, self.output = command, output


class SetupFailed(PermanentError):
    pass


class SchemaTooNew(PermanentError):
    pass
