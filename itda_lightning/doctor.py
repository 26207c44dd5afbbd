"""Command: say what is installed, what is used, and what is missing for what (``itda doctor``)."""

import json
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from humanize import naturalsize

from itda_lightning.activations.bundled import cache_directory
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.installation import DISTRIBUTION, extras, required

BROKEN = 1


def doctor(json: bool = False) -> None:
    """Say what is installed, which devices and engines are used, what is missing for what, and what the cache takes.

    The exit code is 1 if something that every command needs is missing, too old or not writable; else 0.

    Args:
        json: print JSON.
    """
    facts = examine()
    sys.stdout.write(_as_json(facts) if json else "".join(f"{line}\n" for line in _lines(facts)))
    if facts["broken"]:
        sys.exit(BROKEN)


def examine() -> dict[str, Any]:
    """Return the facts as plain data."""
    packages, cache = required(), cache_directory()
    existing = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    writable = os.access(existing, os.W_OK | os.X_OK)
    broken = [f"{package.name}: {package.problem}" for package in packages if package.problem]
    broken += [] if writable else [f"{cache}: not writable; set ITDA_LIGHTNING_CACHE"]
    try:
        from itda_lightning.pursuit.engines import engines  # needs torch, of whose absence this command is to tell

        found = [asdict(engine) for engine in engines()]
    except ImportError as error:
        found = []
        broken.append(f"torch: cannot be imported ({error})")
    return {
        "versions": {DISTRIBUTION: metadata.version(DISTRIBUTION), "python": sys.version.split()[0]}
        | {package.name: package.version for package in packages},
        "engines": found,
        "extras": [asdict(extra) | {"missing": extra.missing} for extra in extras()],
        "cache": {"directory": str(cache), "bytes": _size(cache), "free": shutil.disk_usage(existing).free},
        "broken": broken,
    }


def _size(directory: Path) -> int:
    size = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                size += (Path(place) / name).lstat().st_size
    return size


def _as_json(facts: dict[str, Any]) -> str:
    return f"{json.dumps(facts, indent=1)}\n"


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [", ".join(f"{name} {version or 'missing'}" for name, version in facts["versions"].items()), ""]
    for engine in facts["engines"]:
        lines.append(f"{engine['device']}{engine['name'] and ' ' + engine['name']}: {engine['engine']}")
        if engine["threads"] is not None:
            pays = "faster here, for atoms and harvests" if engine["half_products"] else "not used, float32 is as fast"
            lines.append(f"  {engine['threads']} threads (OMP_NUM_THREADS sets them); bfloat16 products: {pays}")
    lines.append("")
    for extra in facts["extras"]:
        lines.append(f"{'missing' if extra['missing'] else 'ok':<8}{extra['purpose']}")
        lines += [f"        lacks {', '.join(extra['missing'])}: {extra['install']}"] if extra["missing"] else []
    cache = facts["cache"]
    size, free = naturalsize(cache["bytes"]), naturalsize(cache["free"])
    lines += ["", f"cache: {cache['directory']}, {size}, {free} free on its disk (whatever is in it can be made again)"]
    return lines + ([f"broken: {problem}" for problem in facts["broken"]] or ["all that every command needs is here"])


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(doctor, "doctor", args)


if __name__ == "__main__":
    run_command(main)
