"""What setup.cfg says of the project, against the project."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]


def setup_cfg() -> ConfigParser:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if line]


def dotted(folder: Path) -> str:
    return ".".join(folder.relative_to(ROOT).parts)


def test_every_package_folder_is_shipped():
    own = {dotted(module.parent) for module in ROOT.glob("tracker/**/*.py")}
    migrations = {f"tracker.{dotted(module.parent)}" for module in ROOT.glob("migrations/**/*.py")}

    assert set(lines(setup_cfg()["options"]["packages"])) == own | migrations


def test_every_file_beside_the_code_is_shipped():
    patterns = {
        ROOT.joinpath(*package.split("."), pattern)
        for package, value in setup_cfg()["options.package_data"].items()
        for pattern in value.split()
    }

    beside = {path for path in ROOT.glob("tracker/**/*") if path.is_file() and path.suffix not in (".py", ".pyc")}

    assert {path for path in beside if not any(path.match(str(pattern)) for pattern in patterns)} == set()
