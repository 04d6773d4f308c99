"""What a host is asked before anything is started there. Sent to it as text, since Trunkline may be missing there or be
another one: standard library only, any Python 3."""

import json
import platform
import sys
import time


def installed(package):  # type: ignore[no-untyped-def]
    try:
        from importlib.metadata import version

        return version(package)
    except Exception:  # it is not there, or this Python cannot tell
        return ""


def trunkline():  # type: ignore[no-untyped-def]
    try:
        from cluster import __version__

        return __version__
    except Exception:
        return ""


def reach(store, marker, own):  # type: ignore[no-untyped-def]
    """Why the store is not the one that the asking side sees; empty where it is."""
    try:
        from cluster.core.storage.location import Location

        place = Location(store)
        place.read_bytes(marker)
        place.write_bytes(own, b"")
        return ""
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__


def main():  # type: ignore[no-untyped-def]
    asked = json.loads(sys.stdin.read())
    told = {"python": platform.python_version(), "ray": installed("ray"), "trunkline": trunkline(), "store": ""}
    if asked["store"] and told["trunkline"] == asked["trunkline"]:
        told["store"] = reach(asked["store"], asked["marker"], asked["own"])
    told["time"] = time.time()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
