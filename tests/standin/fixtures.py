"""The stand-in hardware as fixtures; tests/conftest.py makes them known to every test."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from standin.nvml import StandinNvml, build
from standin.powercap import PowercapTree


@pytest.fixture(scope="session")
def standin_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("standin"))


@pytest.fixture
def standin_nvml(standin_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandinNvml]:
    """The real pynvml of this process, talking to the stand-in library."""
    folder = tmp_path / "standin"
    folder.mkdir()
    standin = StandinNvml(standin_library, folder)
    for name, value in standin.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlLib", standin.functions)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    standin.shut_down()
    yield standin
    standin.shut_down()


@pytest.fixture
def powercap_tree() -> Iterator[PowercapTree]:
    """An empty tree. Not in tmp_path: that is closed to the user whom root becomes in tests of permissions."""
    with tempfile.TemporaryDirectory(prefix="powercap-") as root:
        Path(root).chmod(0o755)
        yield PowercapTree(Path(root))
