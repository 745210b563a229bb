"""Who is signed in where: `~/.vespid/config.json` (`VESPID_CONFIG` names another), for the eyes of its owner alone.

It holds credentials, so it is replaced whole, from a private file beside it, and whoever changes it holds a lock from
reading to replacing: two commands that refresh one login at the same time see each other's tokens.
"""

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from vespid.cli import exit_codes
from vespid.cli.problem import Problem, missing, wrong_usage

DEFAULT_PROFILE = "default"
DEFAULT_API_BASE = "http://127.0.0.1:3001"
API_KEY_MARK = ".vak_"


class Profile(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One login at one installation: of a person (`refreshToken`) or of a machine (`apiKey`)."""

    api_base: str = DEFAULT_API_BASE
    org_id: str | None = None
    email: str | None = None
    refresh_token: str | None = None
    # Kept for as long as it holds, so that not every command rotates the login; epoch seconds.
    access_token: str | None = None
    access_expires_at: int | None = None
    api_key: str | None = None

    def __repr__(self) -> str:
        return f"Profile({self.api_base}, {self.email or ('api key' if self.api_key else 'nobody')})"

    @property
    def is_signed_in(self) -> bool:
        return self.api_key is not None or self.refresh_token is not None

    def signed_out(self) -> "Profile":
        """The same place, without any credential."""
        return Profile(api_base=self.api_base, org_id=self.org_id, email=self.email)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    current: str = DEFAULT_PROFILE
    profiles: dict[str, Profile] = {}


class ProfileFile:
    """The file, read and changed by several processes at once."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path = path
        self._warn = warn

    @classmethod
    def of(cls, env: Mapping[str, str], warn: Callable[[str], None]) -> "ProfileFile":
        """The file that the environment names, else the default."""
        named = env.get("VESPID_CONFIG", "").strip()
        return cls(Path(named or "~/.vespid/config.json").expanduser().absolute(), warn)

    def read(self) -> Config:
        """The file as it stands; an empty one where there is none. Raises Problem."""
        try:
            with self.path.open("rb") as file:
                self._close_to_others(file.fileno())
                content = file.read()
        except FileNotFoundError:
            return Config()
        except OSError as error:
            raise Problem(f"{self.path} cannot be read: {error.strerror}", exit_code=exit_codes.USAGE) from error
        try:
            return msgspec.json.decode(content, type=Config)
        except msgspec.DecodeError as error:
            raise wrong_usage(
                f"{self.path} is not a config of vespid: {error}", "Move it away, then: vespid login"
            ) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[Config]:
        """The file as it stands, unchanged by others until the block ends. Raises Problem."""
        try:
            make_private_dir(self.path.parent)
            lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._not_writable(error) from error
        try:
            _lock(lock)
            yield self.read()
        finally:
            os.close(lock)

    def keep(self, name: str, profile: Profile, *, make_current: bool = False) -> None:
        """Write one profile; the others stay as they are. Raises Problem."""
        with self.locked() as config:
            self.replace(with_profile(config, name, profile, make_current=make_current))

    def replace(self, config: Config) -> None:
        """Put the content in the file's place, at once or not at all; whoever calls holds the lock. Raises Problem."""
        content = msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"
        temporary: str | None = None
        try:
            # mkstemp makes it 0600.
            handle, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
            temporary = None
        except OSError as error:
            raise self._not_writable(error) from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    def _not_writable(self, error: OSError) -> Problem:
        return Problem(
            f"{self.path} cannot be written: {error.strerror}",
            "Set VESPID_CONFIG to a file that can be, or use VESPID_API_KEY",
            exit_codes.USAGE,
        )

    def _close_to_others(self, descriptor: int) -> None:
        if sys.platform == "win32":
            return
        exposed = stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077
        if not exposed:
            return
        try:
            os.fchmod(descriptor, 0o600)
        except OSError as error:
            raise Problem(
                f"{self.path} holds credentials and others can read it, and it could not be closed: {error.strerror}",
                f"chmod 600 {self.path}",
                exit_codes.USAGE,
            ) from error
        self._warn(
            f"{self.path} could be read by others and is closed now (0600). "
            "If anybody else uses this machine, sign out and in again: vespid logout, vespid login"
        )


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The profile that a command works with, and what of it the environment overrides."""

    name: str
    # As it is in the file.
    stored: Profile
    # As it is used.
    profile: Profile


def choose(config: Config, env: Mapping[str, str], named: str | None) -> Choice:
    """By `--profile`, `VESPID_PROFILE` or the file, then VESPID_API_BASE, _API_KEY and _ORG. Raises Problem."""
    from_env = {name: env.get(f"VESPID_{name}", "").strip() for name in ("PROFILE", "API_BASE", "API_KEY", "ORG")}
    asked = named or from_env["PROFILE"]
    name = asked or config.current
    stored = config.profiles.get(name)
    if stored is None and asked and not from_env["API_KEY"]:
        known = ", ".join(sorted(config.profiles)) or "none"
        raise missing(f"There is no profile {name!r}; there are: {known}", f"Make it: vespid login --profile {name}")
    stored = stored or Profile()
    profile = stored
    if from_env["API_KEY"]:
        key = from_env["API_KEY"]
        profile = Profile(api_base=profile.api_base, org_id=org_of_key(key), api_key=key)
    if from_env["API_BASE"] and checked_base(from_env["API_BASE"]) != profile.api_base:
        # A login is one installation's: it is not shown to another.
        profile = msgspec.structs.replace(
            profile if from_env["API_KEY"] else profile.signed_out(), api_base=checked_base(from_env["API_BASE"])
        )
    if from_env["ORG"]:
        profile = msgspec.structs.replace(profile, org_id=from_env["ORG"])
    return Choice(name=name, stored=stored, profile=profile)


def with_profile(config: Config, name: str, profile: Profile, *, make_current: bool = False) -> Config:
    """The same file with that profile in it."""
    current = name if make_current or not config.profiles else config.current
    return Config(current=current, profiles={**config.profiles, name: profile})


def checked_base(text: str) -> str:
    """The address of an API as it is kept. Raises Problem."""
    base = text.strip().rstrip("/")
    scheme, separator, rest = base.partition("://")
    if not separator or scheme not in ("http", "https") or not rest or "@" in rest:
        raise wrong_usage(f"{text!r} is no address of an API", "It looks like https://vespid.example.com")
    return base


def org_of_key(key: str) -> str:
    """The organization of an API key. Raises Problem."""
    org_id, mark, _ = key.partition(API_KEY_MARK)
    if not mark or not org_id:
        raise wrong_usage("That is no API key", "It looks like <organization>.vak_…: vespid api-key create makes one")
    return org_id


def make_private_dir(path: Path) -> None:
    """Make the folder (0700) and its parents; one that exists keeps its mode, for it may be the user's own."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
