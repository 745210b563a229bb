"""What the frozen agent runs first: it makes the process look as if it had been started by itself.

The one thing to know: what the ways in here leave in the environment (the library path of the frozen program, notes of
its starter) must not reach what the agent starts: tasks, programs with models, servers of tools.
"""

import os
import ssl
import sys

# Where systems other than the one this was built on keep their authorities.
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_STARTED_AS = "VESPID_AGENT_STARTED_AS"
_LIBRARIES = "LD_LIBRARY_PATH"


def forget_the_way_in() -> None:
    """The environment as it was given, and `sys.executable` as the file that was started."""
    for name in [name for name in os.environ if name.startswith("_PYI_")]:
        del os.environ[name]
    if sys.platform == "linux":
        # What was there before, without what our launcher put in front of it.
        ours = str(getattr(sys, "_MEIPASS", ""))
        before = os.environ.pop(f"{_LIBRARIES}_ORIG", "").split(":")
        theirs = ":".join(path for path in before if path not in (ours, ""))
        os.environ.pop(_LIBRARIES, None)
        if theirs:
            os.environ[_LIBRARIES] = theirs
    sys.executable = os.environ.pop(_STARTED_AS, sys.executable)


def find_authorities() -> None:
    """The library within looks where its own system keeps them; elsewhere it must be told, and last there are ours."""
    found = ssl.get_default_verify_paths()
    if sys.platform == "win32" or found.cafile or (found.capath and os.listdir(found.capath)):
        return
    there = next((path for path in _AUTHORITIES if os.path.exists(path)), None)
    if there is None:
        import certifi

        there = certifi.where()
    os.environ[found.openssl_cafile_env] = there


if __name__ == "__main__":
    forget_the_way_in()
    find_authorities()

    from vespid_agent.cli import main

    main()
