"""What the survival server is told: where to listen, where the attack service is, where reports are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ADDRESS = "127.0.0.1:50052"
DEFAULT_ATTACK_ADDRESS = "127.0.0.1:50051"


class InvalidSetting(ValueError):
    """A setting cannot be used; the message says which, and what to give instead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one survival server runs. Addresses read HOST:PORT; port 0 in `address` means any free one."""

    address: str
    attack_address: str
    state: Path

    @classmethod
    def gather(
        cls,
        environment: Mapping[str, str],
        *,
        address: str | None = None,
        attack_address: str | None = None,
        state: str | None = None,
    ) -> Settings:
        """A flag wins over AFR_ADDRESS, AFR_ATTACK_ADDRESS and AFR_STATE, and those over the defaults.

        Raises `InvalidSetting` if an address does not read HOST:PORT.
        """
        return cls(
            _checked("--address", address or environment.get("AFR_ADDRESS") or DEFAULT_ADDRESS, lowest_port=0),
            _checked(
                "--attack-address",
                attack_address or environment.get("AFR_ATTACK_ADDRESS") or DEFAULT_ATTACK_ADDRESS,
                lowest_port=1,
            ),
            Path(state or environment.get("AFR_STATE") or default_state(environment)).expanduser(),
        )

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]


def default_state(environment: Mapping[str, str]) -> Path:
    """The folder for reports where nobody named one, after the XDG base directory specification."""
    base = environment.get("XDG_STATE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path("~/.local/state")) / "afr"


def _checked(flag: str, address: str, *, lowest_port: int) -> str:
    host, separator, port = address.rpartition(":")
    if not (host and separator and port.isascii() and port.isdecimal() and lowest_port <= int(port) < 65536):
        raise InvalidSetting(f"{flag} {address!r} is no address; give HOST:PORT, for example {DEFAULT_ADDRESS}")
    return address
