"""Errors a user can act on: what is wrong, what to do, and the exit code. Imports nothing."""

__all__ = [
    "EXIT_FAIL",
    "EXIT_INCONCLUSIVE",
    "EXIT_INTERRUPTED",
    "EXIT_PASS",
    "EXIT_USAGE",
    "AgentError",
    "BundleError",
    "ConfigError",
    "ContractError",
    "ExportError",
    "FlightLogError",
    "GoldenMismatchError",
    "LinkError",
    "MissingExtraError",
    "NotSupportedError",
    "Sim2SkyError",
    "TargetError",
    "ToolchainError",
]

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_USAGE = 2
EXIT_INCONCLUSIVE = 3
EXIT_INTERRUPTED = 130


class Sim2SkyError(Exception):
    """Base of every error sim2sky raises on purpose.

    Args:
        message: what is wrong, in one sentence, naming the file or value.
        hint: what the user can do: an exact command, key or package extra. May be empty.
        misuse: the command was wrong, whatever the class says: exit code 2, so that a script can tell it from a failed
            check.
    """

    exit_code: int = EXIT_FAIL

    def __init__(self, message: str, *, hint: str = "", misuse: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if misuse:
            self.exit_code = EXIT_USAGE

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class ConfigError(Sim2SkyError):
    """A YAML file or command-line value is wrong; the message names file, line and key."""

    exit_code = EXIT_USAGE


class AgentError(Sim2SkyError):
    """A trained agent's file is missing, damaged, hostile or inconsistent."""

    exit_code = EXIT_USAGE


class ContractError(Sim2SkyError):
    """Observation or action do not match the contract."""

    exit_code = EXIT_USAGE


class NotSupportedError(Sim2SkyError):
    """Something sim2sky does not do; the message begins with `not supported:`."""

    exit_code = EXIT_USAGE

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(f"not supported: {what}", hint=hint)


class MissingExtraError(Sim2SkyError):
    """An optional dependency is absent; the hint is the pip command that installs it."""

    exit_code = EXIT_USAGE

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"this command needs the Python package '{module}'",
            hint=f"pip install 'sim2sky[{extra}]'",
        )


class ExportError(Sim2SkyError):
    """An export could not be made or did not verify."""


class GoldenMismatchError(ExportError):
    """A runtime's answers on the golden vectors differ from the trainer's own."""


class BundleError(Sim2SkyError):
    """A bundle is missing a file, has one too many, or a byte differs from its manifest."""


class TargetError(Sim2SkyError):
    """A target could not be reached, or refused or failed a step."""


class FlightLogError(Sim2SkyError):
    """A flight log is missing, damaged, of another layout, or cannot be written."""


class LinkError(Sim2SkyError):
    """A MAVLink or serial link could not be opened or fell silent."""


class ToolchainError(Sim2SkyError):
    """A compiler or emulator is missing, refuses a source, or hangs."""
